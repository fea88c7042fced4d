//! Pictures of the results, as SVG or PNG: the roofline and the share of the ceiling per kind of work, speed against depth,
//! speed-up against drafts.

use std::fmt::Write;
use std::path::Path;

use quick_xml::escape::escape;
use resvg::usvg::fontdb::Database;
use resvg::{tiny_skia, usvg};

use super::roofline::{Roofline, roofline};
use super::row::{Place, Row};
use crate::bench::Summary;
use crate::cli::{Failure, input};

pub(super) const WIDTH: f64 = 720.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 40.0;
pub(super) const LINE: f64 = 22.0;
pub(super) const HEIGHT: f64 = 260.0;
/// Pixels of a PNG for each unit of the drawing.
const SCALE: f32 = 2.0;
/// Hues that people with any kind of sight tell apart (Okabe and Ito).
pub(super) const COLOURS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/// A picture that grows downwards.
pub(super) struct Page {
    body: String,
    pub(super) at: f64,
}

/// A named line of points.
struct Curve {
    name: String,
    points: Vec<(f64, f64)>,
}

impl Page {
    pub(super) fn put(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.body, "{element}");
    }

    pub(super) fn text(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        let text = escape(text);
        self.put(format_args!(r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#));
    }

    pub(super) fn title(&mut self, text: &str) {
        self.at += 2.0 * LINE;
        let (y, text) = (self.at, escape(text));
        self.put(format_args!(r#"<text x="10" y="{y:.1}" font-weight="bold">{text}</text>"#));
        self.at += LINE / 2.0;
    }

    /// Shares as bars; 1 is the line on the right.
    fn bars(&mut self, title: &str, bars: &[(String, f64, String)]) {
        self.title(title);
        let most = bars.iter().map(|(_, share, _)| *share).fold(1.0, f64::max);
        let scale = (WIDTH - LEFT - RIGHT - 60.0) / most;
        let top = self.at;
        for (index, (name, share, note)) in bars.iter().enumerate() {
            let (y, width, colour) = (self.at, share * scale, COLOURS[index % 2]);
            self.put(format_args!(
                r#"<rect x="{LEFT}" y="{y:.1}" width="{width:.1}" height="{:.1}" fill="{colour}"/>"#,
                LINE - 6.0
            ));
            self.text(LEFT - 8.0, y + 12.0, "end", name);
            self.text(LEFT + width + 6.0, y + 12.0, "start", note);
            self.at += LINE;
        }
        let (x, bottom) = (LEFT + scale, self.at);
        self.put(format_args!(
            r##"<line x1="{x:.1}" y1="{top:.1}" x2="{x:.1}" y2="{bottom:.1}" stroke="#555" stroke-dasharray="4 3"/>"##
        ));
    }

    /// Lines over an axis that begins at zero.
    fn curves(&mut self, title: &str, across: &str, curves: &[Curve]) {
        self.title(title);
        let points = || curves.iter().flat_map(|curve| &curve.points);
        let right = points().map(|point| point.0).fold(0.0, f64::max).max(1e-9);
        let high = points().map(|point| point.1).fold(0.0, f64::max).max(1e-9) * 1.05;
        let (top, bottom) = (self.at, self.at + HEIGHT);
        let x = |value: f64| 60.0 + value / right * (WIDTH - 260.0);
        let y = |value: f64| bottom - value / high * HEIGHT;
        self.put(format_args!(
            r##"<path d="M60 {top:.1} V{bottom:.1} H{:.1}" fill="none" stroke="#555"/>"##,
            x(right)
        ));
        for tick in 0..=4 {
            let value = high * f64::from(tick) / 4.0;
            self.text(
                54.0,
                y(value) + 4.0,
                "end",
                &format!("{value:.3}")[..5.min(format!("{value:.3}").len())],
            );
        }
        let mut marks: Vec<f64> = points().map(|point| point.0).collect();
        marks.sort_by(f64::total_cmp);
        marks.dedup();
        marks.iter().for_each(|mark| self.text(x(*mark), bottom + 16.0, "middle", &mark.to_string()));
        self.text(x(right) + 12.0, bottom + 16.0, "start", across);
        for (index, curve) in curves.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let path: Vec<String> =
                curve.points.iter().map(|(a, b)| format!("{:.1},{:.1}", x(*a), y(*b))).collect();
            self.put(format_args!(
                r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"#,
                path.join(" ")
            ));
            for (a, b) in &curve.points {
                self.put(format_args!(
                    r#"<circle cx="{:.1}" cy="{:.1}" r="3" fill="{colour}"/>"#,
                    x(*a),
                    y(*b)
                ));
            }
            let line = top + 14.0 + LINE * index as f64;
            let from = WIDTH - 190.0;
            self.put(format_args!(
                r#"<rect x="{from:.1}" y="{:.1}" width="10" height="10" fill="{colour}"/>"#,
                line - 9.0
            ));
            self.text(from + 16.0, line, "start", &curve.name);
        }
        self.at = bottom + LINE;
    }
}

/// Points by the name of their curve, in the order in which names come.
fn curves(points: impl Iterator<Item = (String, f64, f64)>) -> Vec<Curve> {
    let mut all: Vec<Curve> = Vec::new();
    for (name, x, y) in points {
        match all.iter_mut().find(|curve| curve.name == name) {
            Some(curve) => curve.points.push((x, y)),
            None => all.push(Curve { name, points: vec![(x, y)] }),
        }
    }
    all.iter_mut().for_each(|curve| curve.points.sort_by(|a, b| a.0.total_cmp(&b.0)));
    all
}

fn draw(place: &Place, rows: &[Row]) -> String {
    let mut page = Page { body: String::new(), at: 0.0 };
    page.text(10.0, 20.0, "start", &format!("{} ({})", place.device, place.driver));
    page.at = 12.0;
    let median = |row: &Row| Summary::of(&row.rates()).map(|summary| summary.median);
    let depths = curves(rows.iter().filter(|row| row.spec.is_none() && row.rows == 0).filter_map(|row| {
        let test = row.test.split(" @ ").next().unwrap_or_default();
        Some((format!("{} {test}", row.loaded.kind), f64::from(row.n_depth), median(row)?))
    }));
    let deep: Vec<Curve> = depths.into_iter().filter(|curve| curve.points.len() > 1).collect();
    if !deep.is_empty() {
        page.curves("tokens/s against depth", "tokens in the cache", &deep);
    }
    let one = |row: &Row| rows.iter().find(|o| o.rows == 1 && o.n_depth == row.n_depth).and_then(median);
    let steps = curves(rows.iter().filter(|row| row.rows > 0).filter_map(|row| {
        let cost = f64::from(row.rows) / median(row)? * one(row)?;
        Some((format!("{} @ d{}", row.loaded.kind, row.n_depth), f64::from(row.rows), cost))
    }));
    if steps.iter().any(|curve| curve.points.len() > 1) {
        page.curves("cost of a step of n rows, in steps of one row", "rows", &steps);
    }
    let drafts = curves(rows.iter().filter_map(|row| {
        let spec = row.spec.as_ref()?;
        Some((format!("{} {}", spec.methods, spec.task), spec.length? as f64, spec.speed_up?))
    }));
    let drafts: Vec<Curve> = drafts.into_iter().filter(|curve| !curve.name.starts_with("none")).collect();
    if !drafts.is_empty() {
        page.curves("speed-up against tokens drafted", "k", &drafts);
    }
    for row in rows {
        let Some(a) = &row.attribution else { continue };
        let wall = a.wall.as_secs_f64();
        let bars: Vec<(String, f64, String)> = a
            .parts
            .iter()
            .filter_map(|part| {
                let share = part.total.nanoseconds as f64 / 1e9 / wall;
                let of = part.share_of_ceiling(&place.ceilings)?;
                let note = format!("{:.0} %, {:.1} % of the time", of * 100.0, share * 100.0);
                (share >= 0.01).then(|| (part.label.clone(), of, note))
            })
            .collect();
        if let Some(picture) = Roofline::of(&a.parts, wall, &place.ceilings) {
            roofline(&mut page, &format!("{} {}: roofline", row.loaded.kind, row.test), &picture);
        }
        if !bars.is_empty() {
            page.bars(&format!("{} {}: share of the read ceiling", row.loaded.kind, row.test), &bars);
        }
    }
    let height = page.at + LINE;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height:.0}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{}</svg>\n",
        page.body
    )
}

/// Families that are on most systems; any other of upright letters will do.
const FAMILIES: [&str; 6] = ["DejaVu Sans", "Noto Sans", "Liberation Sans", "Arial", "Helvetica", "Segoe UI"];

/// The system's fonts with one that text without a name is set in.
fn fonts() -> Option<Database> {
    let mut fonts = Database::new();
    fonts.load_system_fonts();
    let name = |face: &usvg::fontdb::FaceInfo| face.families.first().map(|(name, _)| name.clone());
    let known =
        FAMILIES.iter().find(|family| fonts.faces().any(|face| name(face).as_deref() == Some(family)));
    let family = match known {
        Some(known) => (*known).to_owned(),
        None => fonts.faces().filter(|face| face.style == usvg::fontdb::Style::Normal).find_map(name)?,
    };
    fonts.set_sans_serif_family(family);
    Some(fonts)
}

fn is_png(path: &Path) -> bool {
    path.extension().is_some_and(|end| end.eq_ignore_ascii_case("png"))
}

/// Whether a picture of that name can be drawn here; before anything is measured for it.
pub(super) fn check(path: &Path) -> Result<(), Failure> {
    let name = path.display();
    let known = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("svg")) || is_png(path);
    if !known {
        return Err(input(format!("--plot is {name}; allowed is a file that ends in .svg or .png")));
    }
    if is_png(path) && fonts().is_none() {
        return Err(input(format!("--plot is {name}, and this system has no fonts; allowed is .svg")));
    }
    Ok(())
}

fn png(svg: &str) -> Result<Vec<u8>, String> {
    let fontdb = std::sync::Arc::new(fonts().ok_or("this system has no fonts")?);
    let options = usvg::Options { fontdb, ..usvg::Options::default() };
    let tree = usvg::Tree::from_str(svg, &options).map_err(|error| error.to_string())?;
    let side = |length: f32| (length * SCALE).ceil() as u32;
    let (width, height) = (side(tree.size().width()), side(tree.size().height()));
    let mut pixels = tiny_skia::Pixmap::new(width, height)
        .ok_or_else(|| format!("{width} by {height} pixels are too many"))?;
    resvg::render(&tree, tiny_skia::Transform::from_scale(SCALE, SCALE), &mut pixels.as_mut());
    pixels.encode_png().map_err(|error| error.to_string())
}

/// Draws everything there is to draw.
pub(super) fn write(path: &Path, place: &Place, rows: &[Row]) -> Result<(), Failure> {
    let failed = |error: String| input(format!("{}: {error}", path.display()));
    let svg = draw(place, rows);
    let bytes = if is_png(path) { png(&svg).map_err(failed)? } else { svg.into_bytes() };
    std::fs::write(path, bytes).map_err(|error| failed(error.to_string()))
}
