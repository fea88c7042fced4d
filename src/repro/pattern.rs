//! What the wrong elements of an output have in common: which rows, columns, lanes or tiles they are.

use super::judge::Output;

/// A sentence about where the wrong elements are, or `None` where there are none.
pub fn pattern(output: &Output, subgroup: u32) -> Option<String> {
    let indices: Vec<usize> = output.wrong.iter().map(|wrong| wrong.index).collect();
    let (&first, &last) = (indices.first()?, indices.last()?);
    let count = indices.len();
    let mut facts = vec![format!("{count} of {} words", output.words)];
    if count == 1 {
        facts.push(format!("at {first}"));
    } else if last - first + 1 == count {
        facts.push(format!("all from {first} to {last}"));
    } else {
        let step = indices.windows(2).map(|pair| pair[1] - pair[0]).fold(0, gcd);
        facts.push(if step > 1 {
            format!("every {step}th or a multiple, from {first} to {last}")
        } else {
            format!("between {first} and {last}")
        });
    }
    if output.row > 1 && count > 1 {
        facts.extend(shared("row", &indices, |index| index / output.row));
        facts.extend(shared("column", &indices, |index| index % output.row));
    }
    for lanes in [2, 4, subgroup as usize, 2 * subgroup as usize] {
        if lanes > 1 && count > 1 {
            let residues = distinct(&indices, |index| index % lanes);
            if residues.len() * 2 <= lanes && residues.len() < count {
                let list: Vec<_> = residues.iter().take(8).map(ToString::to_string).collect();
                facts.push(format!("indices modulo {lanes} are {}", list.join(", ")));
                break;
            }
        }
    }
    let kinds = output.wrong.iter().map(|wrong| {
        let (got, want) = (f32::from_bits(wrong.got), f32::from_bits(wrong.want));
        if got.is_nan() {
            "NaN"
        } else if got.is_infinite() {
            "infinite"
        } else if got == 0.0 {
            "zero"
        } else if got == -want {
            "the negative"
        } else if got.abs() == 2.0 * want.abs() || 2.0 * got.abs() == want.abs() {
            "off by a factor of two"
        } else {
            "another value"
        }
    });
    let mut kinds: Vec<&str> = kinds.collect();
    kinds.sort_unstable();
    kinds.dedup();
    if let [one] = kinds[..] {
        facts.push(format!("each is {one}"));
    }
    if is_swapped(output) {
        facts.push("the expected values stand at other places".into());
    }
    Some(facts.join("; "))
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn distinct(indices: &[usize], of: impl Fn(usize) -> usize) -> Vec<usize> {
    let mut all: Vec<usize> = indices.iter().map(|index| of(*index)).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn shared(what: &str, indices: &[usize], of: impl Fn(usize) -> usize) -> Option<String> {
    match distinct(indices, of)[..] {
        [one] => Some(format!("all in {what} {one}")),
        _ => None,
    }
}

/// Whether the wrong words are a permutation of the right ones: lanes that were swapped.
fn is_swapped(output: &Output) -> bool {
    let sorted = |of: fn(&super::judge::Wrong) -> u32| {
        let mut words: Vec<u32> = output.wrong.iter().map(of).collect();
        words.sort_unstable();
        words
    };
    output.wrong.len() > 1 && sorted(|wrong| wrong.got) == sorted(|wrong| wrong.want)
}

#[cfg(test)]
mod tests {
    use super::super::judge::Wrong;
    use super::*;

    fn output(pairs: &[(usize, f32, f32)]) -> Output {
        let wrong = pairs.iter().map(|&(index, got, want)| Wrong {
            index,
            text: String::new(),
            got: got.to_bits(),
            want: want.to_bits(),
        });
        Output { binding: "y", words: 64, row: 16, wrong: wrong.collect(), not_finite: false }
    }

    #[test]
    fn places_and_kinds_are_named() {
        assert_eq!(pattern(&output(&[]), 8), None);
        let column = pattern(&output(&[(3, 0.0, 1.0), (19, 0.0, 2.0), (35, 0.0, 3.0)]), 8);
        let column = column.unwrap_or_default();
        for part in ["3 of 64", "every 16th", "all in column 3", "each is zero"] {
            assert!(column.contains(part), "{column}");
        }
        let swapped = pattern(&output(&[(4, 1.0, 2.0), (5, 2.0, 1.0)]), 8).unwrap_or_default();
        assert!(swapped.contains("at other places"), "{swapped}");
    }
}
