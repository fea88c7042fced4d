//! The roofline of a test (Williams et al. 2009): operations per second of each kind of work against its operations per byte,
//! below what memory and arithmetic allow, both axes in powers of ten.

use super::plot::{COLOURS, HEIGHT, LINE, Page, WIDTH};
use crate::bench::{Ceilings, Part};

const LEFT: f64 = 60.0;
const RIGHT: f64 = 290.0;
/// Kinds of work with less of the time are left out.
const SMALL: f64 = 0.01;

/// One kind of work.
#[derive(Debug, PartialEq)]
struct Point {
    label: String,
    /// Operations per byte.
    intensity: f64,
    /// Operations per second.
    rate: f64,
    /// Share of the roof above it, and of the test's time.
    of_roof: f64,
    time: f64,
}

/// What is drawn.
#[derive(Debug, PartialEq)]
pub(super) struct Roofline {
    /// Bytes per second.
    read: f64,
    /// Operations per second, by the type that is multiplied.
    roofs: Vec<(&'static str, f64)>,
    points: Vec<Point>,
}

impl Roofline {
    /// `None` without ceilings or where nothing is computed.
    pub(super) fn of(parts: &[Part], wall: f64, ceilings: &Ceilings) -> Option<Self> {
        let read = ceilings.read()?;
        let point = |part: &Part| {
            let (rate, bandwidth) = (part.arithmetic()?, part.bandwidth()?);
            let intensity = rate / bandwidth;
            let roof = ceilings.arithmetic_for(part.total.kernel)?.min(intensity * read);
            let time = part.total.nanoseconds as f64 / 1e9 / wall;
            (time >= SMALL).then(|| Point {
                label: part.label.clone(),
                intensity,
                rate,
                of_roof: rate / roof,
                time,
            })
        };
        let points: Vec<Point> = parts.iter().filter_map(point).collect();
        let roofs = [("f32", ceilings.f32), ("int8", ceilings.int8)];
        let roofs: Vec<_> = roofs.into_iter().filter_map(|(name, roof)| Some((name, roof?))).collect();
        (!points.is_empty() && !roofs.is_empty()).then_some(Roofline { read, roofs, points })
    }

    /// Powers of ten that hold everything: of operations per byte, and of operations per second.
    fn decades(&self) -> [(f64, f64); 2] {
        let around = |values: &mut dyn Iterator<Item = f64>| {
            let (least, most) = values.fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(v), b.max(v)));
            (least.log10().floor(), most.log10().ceil())
        };
        let ridges = self.roofs.iter().map(|(_, roof)| roof / self.read);
        let x = around(&mut self.points.iter().map(|point| point.intensity).chain(ridges));
        // One more behind the ridges, so that the flat part is seen.
        let x = (x.0, x.1.max(x.0) + 1.0);
        let start = self.read * 10f64.powf(x.0);
        let rates = self.points.iter().map(|point| point.rate).chain([start]);
        let y = around(&mut rates.chain(self.roofs.iter().map(|(_, roof)| *roof)));
        [x, (y.0, y.1.max(y.0 + 1.0))]
    }
}

pub(super) fn roofline(page: &mut Page, title: &str, picture: &Roofline) {
    page.title(title);
    let [x_range, y_range] = picture.decades();
    let (top, bottom, right) = (page.at, page.at + HEIGHT, WIDTH - RIGHT);
    let x = |value: f64| LEFT + (value.log10() - x_range.0) / (x_range.1 - x_range.0) * (right - LEFT);
    let y = |value: f64| bottom - (value.log10() - y_range.0) / (y_range.1 - y_range.0) * HEIGHT;
    let decades = |(from, to): (f64, f64)| (from as i32..=to as i32).map(|power| 10f64.powi(power));
    for mark in decades(x_range) {
        let at = x(mark);
        page.put(format_args!(r##"<path d="M{at:.1} {top:.1} V{bottom:.1}" stroke="#ddd"/>"##));
        page.text(at, bottom + 16.0, "middle", &short(mark));
    }
    for mark in decades(y_range) {
        let at = y(mark);
        page.put(format_args!(r##"<path d="M{LEFT} {at:.1} H{right:.1}" stroke="#ddd"/>"##));
        page.text(LEFT - 6.0, at + 4.0, "end", &short(mark / 1e9));
    }
    page.text(right + 12.0, bottom + 16.0, "start", "operations per byte");
    page.text(LEFT - 6.0, top - 8.0, "start", "GOP/s");
    let from = 10f64.powf(x_range.0);
    for (name, roof) in &picture.roofs {
        let (start, ridge) = ((from * picture.read).min(*roof), roof / picture.read);
        page.put(format_args!(
            r##"<path d="M{:.1} {:.1} L{:.1} {:.1} H{right:.1}" fill="none" stroke="#555" stroke-width="1.5"/>"##,
            x(from),
            y(start),
            x(ridge.max(from)),
            y(*roof),
        ));
        page.text(right + 4.0, y(*roof) + 4.0, "start", name);
    }
    for (index, point) in picture.points.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        // The area is the share of the time.
        let radius = 3.0 + 12.0 * point.time.sqrt();
        page.put(format_args!(
            r#"<circle cx="{:.1}" cy="{:.1}" r="{radius:.1}" fill="{colour}" fill-opacity="0.6"/>"#,
            x(point.intensity),
            y(point.rate),
        ));
        let line = top + 4.0 + 16.0 * index as f64;
        let legend = right + 44.0;
        page.put(format_args!(
            r#"<rect x="{legend:.1}" y="{:.1}" width="10" height="10" fill="{colour}"/>"#,
            line - 9.0
        ));
        let words = format!(
            "{}: {:.0} % of the roof, {:.0} % of the time",
            point.label,
            point.of_roof * 100.0,
            point.time * 100.0
        );
        page.text(legend + 16.0, line, "start", &words);
    }
    let legend = top + 16.0 * picture.points.len() as f64;
    page.at = bottom.max(legend) + LINE;
}

fn short(value: f64) -> String {
    if (1e-3..1e4).contains(&value) { format!("{value}") } else { format!("{value:.0e}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::MemoryRates;
    use crate::{LabelTotal, Work};

    fn part(label: &str, nanoseconds: u64, weights: u64, operations: u64) -> Part {
        let work = Work { weights, operations, ..Work::default() };
        let total = LabelTotal { dispatches: 1, nanoseconds, work, kernel: "linear.matvec.q4_k.q8" };
        Part { label: label.into(), total }
    }

    #[test]
    fn points_are_held_against_the_roof_above_them() {
        let memory = MemoryRates { name: "weights".into(), bytes: 1, read: 100e9, write: 1.0, copy: 1.0 };
        let (f32, int8) = (Some(1e12), Some(4e12));
        let ceilings = Ceilings { memory: vec![memory], f32, int8, ..Ceilings::default() };
        // 80 GB/s of products of 2 operations per byte; 2 TOP/s where bytes are no matter; and what computes nothing.
        let parts = [
            part("ffn_down", 500_000_000, 40_000_000_000, 80_000_000_000),
            part("dense", 500_000_000, 1_000_000, 1_000_000_000_000),
            part("norm", 500_000_000, 1_000_000, 0),
            part("tiny", 1_000, 1_000, 1_000),
        ];
        let found = Roofline::of(&parts, 1.5, &ceilings).expect("a picture");
        let labels: Vec<_> = found.points.iter().map(|point| point.label.as_str()).collect();
        assert_eq!(labels, ["ffn_down", "dense"]);
        assert!(
            (found.points[0].of_roof - 0.8).abs() < 1e-9 && (found.points[0].intensity - 2.0).abs() < 1e-9
        );
        assert!((found.points[1].of_roof - 0.5).abs() < 1e-9);
        let [x, y] = found.decades();
        assert!(x.0 <= 0.0 && x.1 >= 6.0 && y.0 <= 11.0 && y.1 >= 12.0, "{x:?} {y:?}");
        assert_eq!(Roofline::of(&parts, 1.5, &Ceilings::default()), None);
        assert_eq!(Roofline::of(&parts[2..3], 1.5, &ceilings), None);
    }
}
