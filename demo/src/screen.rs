//! The live screen. Draws a picture; decides nothing.

use std::time::Duration;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize},
    text::{Line, Span},
    widgets::Paragraph,
};
use weir_tests::monotonic;

use crate::board::{Act, Event, Picture, Row, Tone};

/// Draws everything.
pub(crate) fn draw(frame: &mut Frame, picture: &Picture) {
    let rows = u16::try_from(picture.rows.len()).unwrap_or(u16::MAX);
    let inner = frame.area().inner(ratatui::layout::Margin { horizontal: 1, vertical: 0 });
    let [title, steps, banner, _, head, backends, _, sums, _, events, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(rows),
        Constraint::Length(1),
        Constraint::Length(3),
        Constraint::Length(1),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(inner);
    let elapsed = monotonic().saturating_sub(picture.begin);
    two_ended(frame, title, Line::from("weir demo".bold()), Line::from(clock(elapsed).dark_gray()));
    frame.render_widget(acts(picture.act), steps);
    frame.render_widget(Line::from(picture.banner.as_str()).style(tone(Tone::Act)), banner);
    frame.render_widget(Line::from(heading()).dark_gray(), head);
    let busiest = picture.rows.iter().map(|row| row.rate).max().unwrap_or(0).max(1);
    for (index, row) in picture.rows.iter().enumerate() {
        let line = Rect { y: backends.y + index as u16, height: 1, ..backends };
        if line.y < backends.bottom() {
            frame.render_widget(backend(row, busiest, line.width), line);
        }
    }
    frame.render_widget(Paragraph::new(summary(picture)), sums);
    frame.render_widget(Paragraph::new(log(picture, events)), events);
    frame.render_widget(Line::from("q or Ctrl-C: end and clean up").dark_gray(), foot);
}

fn tone(tone: Tone) -> Style {
    match tone {
        Tone::Act => Style::new().fg(Color::Yellow),
        Tone::Good => Style::new().fg(Color::Green),
        Tone::Bad => Style::new().fg(Color::Red),
        Tone::Plain => Style::new(),
    }
}

fn clock(time: Duration) -> String {
    format!("{:02}:{:02}", time.as_secs() / 60, time.as_secs() % 60)
}

fn two_ended(frame: &mut Frame, area: Rect, left: Line, right: Line) {
    frame.render_widget(left, area);
    frame.render_widget(right.right_aligned(), area);
}

/// The acts, those behind, the one that plays, those ahead.
fn acts(current: Act) -> Line<'static> {
    let place = |act: Act| Act::ALL.iter().position(|other| *other == act);
    let mut spans = Vec::new();
    for act in Act::ALL {
        let style = match place(act).cmp(&place(current)) {
            std::cmp::Ordering::Less => Style::new(),
            std::cmp::Ordering::Equal => Style::new().add_modifier(Modifier::REVERSED),
            std::cmp::Ordering::Greater => Style::new().fg(Color::DarkGray),
        };
        spans.push(Span::styled(format!(" {} ", act.name()), style));
        spans.push(Span::raw(" "));
    }
    Line::from(spans)
}

/// Columns before the bar.
const BEFORE_BAR: u16 = 42;
/// The longest bar, on wide terminals.
const LONGEST_BAR: u16 = 60;

fn heading() -> String {
    format!("{:<10} {:<13} {:>6} {:>9}", "BACKEND", "STATE", "FLOWS", "REQUESTS/S")
}

fn backend(row: &Row, busiest: usize, width: u16) -> Line<'static> {
    let space = usize::from(width.saturating_sub(BEFORE_BAR).min(LONGEST_BAR));
    // Eighths of a cell, so that the bar moves calmly.
    let eighths = row.rate * space * 8 / busiest;
    let part = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
    let bar = "█".repeat(eighths / 8) + part;
    Line::from(vec![
        Span::raw(format!("{:<10} ", row.name)),
        Span::styled(format!("{:<13} ", row.state), tone(row.tone)),
        Span::raw(format!("{:>6} {:>9}  ", row.flows, row.rate)),
        Span::styled(bar, Style::new().fg(Color::Cyan)),
    ])
}

fn summary(picture: &Picture) -> Vec<Line<'static>> {
    let failed = match picture.failed {
        0 => Span::raw("none failed"),
        failed => Span::styled(format!("{failed} failed"), Style::new().fg(Color::Red)),
    };
    let requests = format!("{:<11}{} sent, {}/s, ", "requests", picture.sent, picture.rate);
    let running = picture.downloads.iter().filter(|one| one.end.is_none()).count();
    let broken = picture.downloads.iter().filter(|one| one.broken()).count();
    let complete = picture.downloads.len() - running - broken;
    let downloads = match picture.downloads.len() {
        0 => "none yet".to_owned(),
        _ => format!("{running} running, {complete} complete, {broken} broken"),
    };
    let style = if picture.daemon == "running" { Style::new() } else { tone(Tone::Bad) };
    vec![
        Line::from(vec![Span::raw(requests), failed]),
        Line::from(format!("{:<11}{downloads}", "downloads")),
        Line::from(vec![Span::raw(format!("{:<11}", "daemon")), Span::styled(picture.daemon, style)]),
    ]
}

/// The newest events, the last one at the bottom.
fn log(picture: &Picture, area: Rect) -> Vec<Line<'_>> {
    let skip = picture.events.len().saturating_sub(usize::from(area.height));
    picture.events.iter().skip(skip).map(event).collect()
}

fn event(event: &Event) -> Line<'_> {
    let at = Span::styled(format!("{:>6.2}  ", event.at.as_secs_f64()), Style::new().fg(Color::DarkGray));
    Line::from(vec![at, Span::styled(event.text.as_str(), tone(event.tone))])
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::board::Board;

    #[test]
    fn a_small_terminal_shows_every_backend_and_the_newest_event() {
        let board = Board::new(&["direct-1", "direct-2", "routed-1"]);
        for number in 0..40 {
            board.tell(Tone::Plain, format!("event {number}"));
        }
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| draw(frame, &board.lock())).unwrap();
        let text = terminal.backend().to_string();
        for wanted in ["direct-1", "direct-2", "routed-1", "event 39", "none failed"] {
            assert!(text.contains(wanted), "{wanted} in\n{text}");
        }
        assert!(!text.contains("event 20"), "{text}");
    }

    #[test]
    fn a_bar_is_as_long_as_its_share_of_the_busiest() {
        let row = |rate| Row {
            name: "direct-1".into(),
            state: "up".into(),
            tone: Tone::Good,
            rate,
            flows: 0,
            answered: 0,
        };
        let bar = |rate| backend(&row(rate), 100, BEFORE_BAR + 20).spans[3].content.chars().count();
        assert_eq!((bar(100), bar(50), bar(0)), (20, 10, 0));
    }
}
