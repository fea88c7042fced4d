//! Functions and filters that templates expect beyond Jinja's own, as Python's libraries define them.

use std::io;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};

/// What `raise_exception` was called with.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Raised(pub(super) String);

pub(super) fn raise_exception(message: String) -> Result<Value, Error> {
    let detail = message.clone();
    Err(Error::new(ErrorKind::InvalidOperation, detail).with_source(Raised(message)))
}

/// JSON on one line with the separators of Python's `json.dumps`.
struct Spaced {
    item: String,
    key: String,
}

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(self.item.as_bytes()) }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(self.item.as_bytes()) }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.key.as_bytes())
    }
}

fn write(value: &impl Serialize, formatter: impl Formatter) -> Result<String, Error> {
    let mut out = Vec::new();
    let written = value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter));
    let failed = |source: String| Error::new(ErrorKind::InvalidOperation, format!("no JSON: {source}"));
    written.map_err(|error| failed(error.to_string()))?;
    String::from_utf8(out).map_err(|error| failed(error.to_string()))
}

/// JSON as Python writes it.
pub(super) fn dumps(value: &serde_json::Value) -> String {
    write(value, Spaced { item: ", ".into(), key: ": ".into() }).unwrap_or_default()
}

/// `json.dumps(value, ensure_ascii=False, …)`: no escapes for HTML, unlike the filter of Jinja.
pub(super) fn tojson(value: &Value, indent: Option<usize>, options: Kwargs) -> Result<Value, Error> {
    let indent = indent.or(options.get("indent")?);
    // Characters are always written as they are, as the field's templates expect.
    let _: Option<bool> = options.get("ensure_ascii")?;
    let sort: Option<bool> = options.get("sort_keys")?;
    let separators: Option<Value> = options.get("separators")?;
    options.assert_all_used()?;
    let sorted = if sort == Some(true) { sorted(value)? } else { value.clone() };
    let text = match (indent, separators) {
        (Some(indent), _) => {
            write(&sorted, PrettyFormatter::with_indent(" ".repeat(indent.min(16)).as_bytes()))?
        }
        (None, None) => write(&sorted, Spaced { item: ", ".into(), key: ": ".into() })?,
        (None, Some(separators)) => {
            let part = |i: usize| separators.get_item(&Value::from(i)).map(|text| text.to_string());
            write(&sorted, Spaced { item: part(0)?, key: part(1)? })?
        }
    };
    Ok(Value::from(text))
}

/// The value with its keys in order, all the way down.
fn sorted(value: &Value) -> Result<Value, Error> {
    let text = write(value, CompactFormatter)?;
    let invalid = |error: serde_json::Error| Error::new(ErrorKind::InvalidOperation, error.to_string());
    let mut json: serde_json::Value = serde_json::from_str(&text).map_err(invalid)?;
    json.sort_all_objects();
    Ok(Value::from(minijinja::value::Serde(json)))
}

const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// `strftime` of a time in seconds since 1970, UTC.
pub(super) fn strftime(now: u64, format: &str) -> Result<String, Error> {
    let (days, second) = ((now / 86_400).min(2_900_000), now % 86_400);
    // Years that begin in March have their leap day at the end: 719,468 days lie between 0000-03-01 and 1970-01-01.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (weekday, month_name) = (DAYS[((days + 3) % 7) as usize], MONTHS[(month - 1) as usize]);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let directive = chars.next();
        out.push_str(&match directive {
            Some('Y') => year.to_string(),
            Some('y') => format!("{:02}", year % 100),
            Some('m') => format!("{month:02}"),
            Some('d') => format!("{day:02}"),
            Some('e') => format!("{day:2}"),
            Some('B') => month_name.to_owned(),
            Some('b' | 'h') => month_name[..3].to_owned(),
            Some('A') => weekday.to_owned(),
            Some('a') => weekday[..3].to_owned(),
            Some('H') => format!("{hour:02}"),
            Some('I') => format!("{:02}", (hour + 11) % 12 + 1),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('M') => format!("{minute:02}"),
            Some('S') => format!("{:02}", second % 60),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{:02}", second % 60),
            Some('Z') => "UTC".to_owned(),
            Some('z') => "+0000".to_owned(),
            Some('%') => "%".to_owned(),
            other => {
                let found = other.map_or(String::new(), String::from);
                let sentence = format!("strftime_now does not know %{found}");
                return Err(Error::new(ErrorKind::InvalidOperation, sentence));
            }
        });
    }
    Ok(out)
}

/// Methods of Python's strings, lists and dictionaries.
pub(super) fn method(
    state: &mut minijinja::State<'_, '_>,
    value: &Value,
    name: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    match (value.kind(), name) {
        // Templates take what stands before or after a tag.
        (ValueKind::String, "removeprefix" | "removesuffix") => {
            let (affix,): (&str,) = minijinja::value::from_args(arguments)?;
            let text = value.as_str().unwrap_or_default();
            let cut =
                if name == "removeprefix" { text.strip_prefix(affix) } else { text.strip_suffix(affix) };
            Ok(Value::from(cut.unwrap_or(text)))
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, arguments),
    }
}
