//! Rows as files: markdown, csv, json, jsonl and sql.

use std::io::Write;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::Value;

use super::args::Format;
use crate::cli::Failure;

/// Name, SQL type and value of each column.
pub(super) type Columns = Vec<(&'static str, &'static str, Value)>;

/// One kind of rows: the table's name in SQL, and for each row its columns and the whole of it.
pub(super) struct Sheet<'a> {
    pub(super) name: &'a str,
    pub(super) rows: Vec<(Columns, Value)>,
    /// Columns of the markdown table; the others have too many.
    pub(super) brief: &'a [&'a str],
}

/// A value as text; nothing for null.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn sql(value: &Value) -> String {
    match value {
        Value::Null => "NULL".into(),
        Value::String(text) => format!("'{}'", text.replace('\'', "''")),
        Value::Bool(yes) => u8::from(*yes).to_string(),
        other => other.to_string(),
    }
}

/// Numbers with few digits, for people.
fn short(value: &Value) -> String {
    match value.as_f64() {
        Some(number) if number.fract() != 0.0 => format!("{number:.2}"),
        _ => text(value),
    }
}

impl Sheet<'_> {
    /// Writes the rows.
    pub(super) fn write(&self, format: Format, out: &mut dyn Write) -> Result<(), Failure> {
        match format {
            Format::Json => {
                let all: Vec<&Value> = self.rows.iter().map(|(_, value)| value).collect();
                serde_json::to_writer_pretty(&mut *out, &all)?;
                writeln!(out)?;
            }
            Format::Jsonl => {
                for (_, value) in &self.rows {
                    serde_json::to_writer(&mut *out, value)?;
                    writeln!(out)?;
                }
            }
            Format::Csv => {
                let mut writer = csv::Writer::from_writer(&mut *out);
                let written = |result: csv::Result<()>| result.map_err(std::io::Error::from);
                for (index, (columns, _)) in self.rows.iter().enumerate() {
                    if index == 0 {
                        written(writer.write_record(columns.iter().map(|(name, _, _)| name)))?;
                    }
                    written(writer.write_record(columns.iter().map(|(_, _, value)| text(value))))?;
                }
                writer.flush()?;
            }
            Format::Sql => {
                for (index, (columns, _)) in self.rows.iter().enumerate() {
                    if index == 0 {
                        let fields: Vec<_> =
                            columns.iter().map(|(name, kind, _)| format!("  {name} {kind}")).collect();
                        writeln!(
                            out,
                            "CREATE TABLE IF NOT EXISTS {} (\n{}\n);",
                            self.name,
                            fields.join(",\n")
                        )?;
                    }
                    let names: Vec<_> = columns.iter().map(|(name, _, _)| *name).collect();
                    let values: Vec<_> = columns.iter().map(|(_, _, value)| sql(value)).collect();
                    let (names, values) = (names.join(", "), values.join(", "));
                    writeln!(out, "INSERT INTO {} ({names}) VALUES ({values});", self.name)?;
                }
            }
            Format::Md | Format::Table => self.markdown(out)?,
        }
        Ok(())
    }

    fn markdown(&self, out: &mut dyn Write) -> Result<(), Failure> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header(self.brief);
        for (columns, _) in &self.rows {
            let cell =
                |name: &&str| columns.iter().find(|(other, _, _)| other == name).map(|(_, _, v)| short(v));
            table.add_row(self.brief.iter().map(|name| cell(name).unwrap_or_default()));
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        Ok(writeln!(out, "{table}")?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written(format: Format) -> String {
        let row = |name: &str, rate: Value| {
            let columns = vec![
                ("test", "TEXT", json!(name)),
                ("avg_ts", "REAL", rate.clone()),
                ("note", "TEXT", json!("a, b")),
            ];
            (columns, json!({ "test": name, "avg_ts": rate, "samples": [1, 2] }))
        };
        let rows = vec![row("it's", json!(1.25)), row("tg128", Value::Null)];
        let sheet = Sheet { name: "llama_bench", rows, brief: &["test", "avg_ts"] };
        let mut out = Vec::new();
        sheet.write(format, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_format_quotes_what_it_must() {
        assert_eq!(written(Format::Csv), "test,avg_ts,note\nit's,1.25,\"a, b\"\ntg128,,\"a, b\"\n");
        let sql = written(Format::Sql);
        assert!(
            sql.starts_with("CREATE TABLE IF NOT EXISTS llama_bench (\n  test TEXT,\n  avg_ts REAL,"),
            "{sql}"
        );
        assert!(sql.contains("VALUES ('it''s', 1.25, 'a, b');"), "{sql}");
        assert!(sql.contains("VALUES ('tg128', NULL, 'a, b');"), "{sql}");
        let lines = written(Format::Jsonl);
        assert_eq!(lines.lines().count(), 2);
        let all: Vec<Value> = serde_json::from_str(&written(Format::Json)).unwrap();
        assert_eq!(all[0]["samples"], json!([1, 2]));
        assert!(written(Format::Md).starts_with("| test"), "{}", written(Format::Md));
    }
}
