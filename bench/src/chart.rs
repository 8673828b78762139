//! The result as a bar chart.

use std::fmt::Write as _;

use crate::report::{Line, Report};

const LABELS: f64 = 330.0;
const BARS: f64 = 420.0;
const ROW: f64 = 22.0;
const TOP: f64 = 34.0;

/// An SVG: one bar a case, its spread between processes as a line over the bar's end.
pub(crate) fn draw(report: &Report) -> String {
    let longest = report.cases.iter().map(|line| line.highest_ns).fold(1.0, f64::max);
    let scale = BARS / longest;
    let (width, height) = (LABELS + BARS + 70.0, TOP + ROW * report.cases.len() as f64 + 10.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"10\" y=\"20\" font-weight=\"bold\">Nanoseconds per packet over an empty XDP program</text>\n"
    );
    for (number, line) in report.cases.iter().enumerate() {
        bar(&mut svg, line, TOP + ROW * number as f64, scale);
    }
    svg + "</svg>\n"
}

fn bar(svg: &mut String, line: &Line, y: f64, scale: f64) {
    let reference = ["bare", "lru", "parse", "encap"].iter().any(|prefix| line.id.starts_with(prefix));
    let colour = if reference { "#b0b7bf" } else { "#2b6cb0" };
    let end = LABELS + line.ns.max(0.0) * scale;
    let (low, high) = (LABELS + line.lowest_ns.max(0.0) * scale, LABELS + line.highest_ns.max(0.0) * scale);
    let (middle, text) = (y + ROW / 2.0, y + ROW / 2.0 + 4.0);
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{text:.1}\" text-anchor=\"end\">{}</text>\n\
         <rect x=\"{LABELS}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>\n\
         <line x1=\"{low:.1}\" y1=\"{middle:.1}\" x2=\"{high:.1}\" y2=\"{middle:.1}\" stroke=\"#1a202c\"/>\n\
         <text x=\"{:.1}\" y=\"{text:.1}\">{:.0}</text>",
        LABELS - 8.0,
        line.title.trim(),
        y + 3.0,
        end - LABELS,
        ROW - 6.0,
        high.max(end) + 6.0,
        line.ns
    );
}
