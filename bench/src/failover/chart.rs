//! The rows as strips: a dot for each trial, on a logarithmic axis.

use std::fmt::Write as _;

use super::ledger::{Ledger, Row};

const LABELS: f64 = 470.0;
const STRIP: f64 = 460.0;
const ROW: f64 = 22.0;
const TOP: f64 = 52.0;
/// The axis, in milliseconds; what is beyond sits on its end.
const AXIS: (f64, f64) = (0.005, 200.0);
const TICKS: [f64; 8] = [0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 50.0, 100.0];

/// An SVG.
pub(super) fn draw(ledger: &Ledger) -> String {
    let (width, height) = (LABELS + STRIP + 30.0, TOP + ROW * ledger.rows.len() as f64 + 12.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"10\" y=\"18\" font-weight=\"bold\">Milliseconds from the failure to the last new connection sent to the \
         failed backend; a dot for each trial, a line at the median</text>\n"
    );
    for tick in TICKS {
        let x = place(tick);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{height:.1}\" stroke=\"#e2e8f0\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#4a5568\">{tick}</text>",
            TOP - 6.0,
            TOP - 10.0
        );
    }
    for (number, row) in ledger.rows.iter().enumerate() {
        strip(&mut svg, row, TOP + ROW * number as f64);
    }
    svg + "</svg>\n"
}

/// Where a time is on the axis.
fn place(ms: f64) -> f64 {
    let (low, high) = AXIS;
    LABELS + STRIP * (ms.clamp(low, high) / low).ln() / (high / low).ln()
}

fn strip(svg: &mut String, row: &Row, y: f64) {
    let colour = if row.who == "weir" { "#2b6cb0" } else { "#c05621" };
    let middle = y + ROW / 2.0;
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"{colour}\">{}: {}, {}</text>",
        LABELS - 8.0,
        middle + 4.0,
        row.who,
        short(&row.failure),
        row.signal.replace('`', "")
    );
    for (number, ms) in row.samples_ms.iter().enumerate() {
        // Spread over the strip's height, so that equal times can be told apart.
        let offset = (number % 5) as f64 * 2.4 - 4.8;
        let _ = writeln!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"1.6\" fill=\"{colour}\" fill-opacity=\"0.45\"/>",
            place(*ms),
            middle + offset
        );
    }
    let x = place(row.p50_ms);
    let _ = writeln!(
        svg,
        "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{:.1}\" stroke=\"#1a202c\" stroke-width=\"2\"/>",
        y + 2.0,
        y + ROW - 2.0
    );
}

/// What stands before the explanation.
fn short(failure: &str) -> &str {
    failure.split(" (").next().unwrap_or(failure).split(" or ").next().unwrap_or(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_is_logarithmic_and_keeps_everything_on_it() {
        assert!((place(AXIS.0) - LABELS).abs() < 1e-9 && (place(1e9) - (LABELS + STRIP)).abs() < 1e-9);
        assert!((place(0.0) - LABELS).abs() < 1e-9);
        assert!(((place(1.0) - place(0.1)) - (place(10.0) - place(1.0))).abs() < 1e-9);
        assert_eq!(short("host frozen or cut off behind a switch"), "host frozen");
    }
}
