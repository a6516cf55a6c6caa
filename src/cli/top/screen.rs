//! What somebody sees: the list, the pane about the chosen pipeline, and what the keys have made of both.

use std::sync::Arc;

use ratatui::Frame;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Borders, Cell, Clear, Paragraph, Row, Table, TableState};

use super::{detail, words};
use crate::status::fleet::{Fleet, Overview};
use crate::status::text::Paint;

/// Lines that a page moves.
const PAGE: u16 = 10;
/// A name takes so much of its line at most.
const NAME_WIDTH_MAX: usize = 24;
/// Columns that one step to the side moves.
const SIDE: u16 = 8;

const KEYS: [(&str, &str); 9] = [
    ("↑ ↓ j k", "choose a pipeline"),
    ("enter", "all of the pane below, and back"),
    ("pgup pgdn", "scroll the pane"),
    ("← →", "move the pane sideways"),
    ("s", "sort by: worst, name, behind, rate"),
    ("/", "show only names with what is typed; esc shows all"),
    ("home end", "the first, the last"),
    ("?", "these keys"),
    ("q ctrl-c", "quit"),
];

/// What a key was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Stay,
    Quit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Worst,
    Name,
    Behind,
    Rate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Focus {
    List,
    /// A filter is being typed.
    Filter,
    Help,
}

/// The state of the display. It follows the chosen pipeline by its name, wherever the order puts it.
#[derive(Debug)]
pub struct Screen {
    chosen: Option<String>,
    sort: Sort,
    filter: String,
    focus: Focus,
    /// The pane takes everything.
    is_open: bool,
    /// Of the pane, down and to the right.
    scroll: (u16, u16),
    /// The first line of the list that is visible is remembered here.
    table: TableState,
    paint: Paint,
}

impl Screen {
    pub fn new(paint: Paint) -> Screen {
        Screen {
            chosen: None,
            sort: Sort::Worst,
            filter: String::new(),
            focus: Focus::List,
            is_open: false,
            scroll: (0, 0),
            table: TableState::default(),
            paint,
        }
    }

    /// Does what a key says.
    pub fn press(&mut self, key: KeyEvent, fleet: &Fleet) -> Answer {
        if key.kind == KeyEventKind::Release {
            return Answer::Stay;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if key.code == KeyCode::Char('c') { Answer::Quit } else { Answer::Stay };
        }
        match self.focus {
            Focus::Help => self.focus = Focus::List,
            Focus::Filter => self.type_filter(key.code),
            Focus::List if key.code == KeyCode::Char('q') => return Answer::Quit,
            Focus::List => self.look(key.code, fleet),
        }
        Answer::Stay
    }

    fn type_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.focus = Focus::List,
            KeyCode::Esc => {
                self.filter.clear();
                self.focus = Focus::List;
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(letter) => self.filter.push(letter),
            _ => {}
        }
    }

    fn look(&mut self, key: KeyCode, fleet: &Fleet) {
        let (down, right) = &mut self.scroll;
        match key {
            KeyCode::Up | KeyCode::Char('k') => self.choose(fleet, |at, _| at.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.choose(fleet, |at, last| (at + 1).min(last)),
            KeyCode::Home => self.choose(fleet, |_, _| 0),
            KeyCode::End => self.choose(fleet, |_, last| last),
            KeyCode::PageDown | KeyCode::Char(' ') => *down = down.saturating_add(PAGE),
            KeyCode::PageUp => *down = down.saturating_sub(PAGE),
            KeyCode::Right => *right = right.saturating_add(SIDE),
            KeyCode::Left => *right = right.saturating_sub(SIDE),
            KeyCode::Enter => self.is_open = !self.is_open,
            KeyCode::Esc if self.is_open => self.is_open = false,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('/') => self.focus = Focus::Filter,
            KeyCode::Char('?') => self.focus = Focus::Help,
            KeyCode::Char('s') => {
                self.sort = match self.sort {
                    Sort::Worst => Sort::Name,
                    Sort::Name => Sort::Behind,
                    Sort::Behind => Sort::Rate,
                    Sort::Rate => Sort::Worst,
                }
            }
            _ => {}
        }
    }

    /// Chooses another one, from where the chosen one is and where the last is.
    fn choose(&mut self, fleet: &Fleet, step: impl FnOnce(usize, usize) -> usize) {
        let rows = self.rows(fleet);
        let at = self.position(&rows);
        if let Some(row) = rows.get(step(at, rows.len().saturating_sub(1))) {
            let name = row.name.clone();
            self.chosen = Some(name);
            self.scroll = (0, 0);
        }
    }

    /// What the list shows, in its order.
    fn rows<'a>(&self, fleet: &'a Fleet) -> Vec<&'a Overview> {
        let wanted = self.filter.to_lowercase();
        let all = fleet.pipelines.iter().map(Arc::as_ref);
        let mut rows: Vec<&Overview> = all.filter(|one| one.name.to_lowercase().contains(&wanted)).collect();
        match self.sort {
            Sort::Worst => rows.sort_by(|left, right| words::by_badness(left, right)),
            Sort::Name => rows.sort_by(|left, right| left.name.cmp(&right.name)),
            Sort::Behind => rows
                .sort_by(|left, right| words::behind_seconds(right).total_cmp(&words::behind_seconds(left))),
            Sort::Rate => rows.sort_by_key(|one| std::cmp::Reverse(words::rate_number(one))),
        }
        rows
    }

    /// Where the chosen one is; the first where it is not there, or nobody chose.
    fn position(&self, rows: &[&Overview]) -> usize {
        let chosen = self.chosen.as_ref();
        rows.iter().position(|row| Some(&row.name) == chosen).unwrap_or_default()
    }

    pub fn draw(&mut self, frame: &mut Frame<'_>, fleet: &Fleet) {
        let [head, body, foot] =
            Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)])
                .areas(frame.area());
        let rows = self.rows(fleet);
        draw_head(frame, head, fleet);
        let needed = u16::try_from(rows.len() + 1).unwrap_or(u16::MAX);
        let height = if self.is_open { 0 } else { needed.min((body.height / 2).max(3)) };
        let [list, pane] = Layout::vertical([Constraint::Length(height), Constraint::Min(0)]).areas(body);
        if !self.is_open {
            self.draw_list(frame, list, &rows);
        }
        match rows.get(self.position(&rows)) {
            Some(row) => self.draw_pane(frame, pane, row),
            None => frame.render_widget(Paragraph::new(self.nothing(fleet)), pane),
        }
        self.draw_foot(frame, foot);
        if self.focus == Focus::Help {
            draw_help(frame);
        }
    }

    fn nothing(&self, fleet: &Fleet) -> String {
        if fleet.pipelines.is_empty() {
            return "No pipeline is configured: pgdiode init writes a sample.".into();
        }
        format!("No name has \"{}\" in it; esc shows all.", self.filter)
    }

    fn draw_list(&mut self, frame: &mut Frame<'_>, area: Rect, rows: &[&Overview]) {
        let name = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or_default();
        let name = u16::try_from(name.clamp(8, NAME_WIDTH_MAX)).unwrap_or(8);
        let widths = [11, name, 11, 12, 9, 5];
        // Two for the mark, and one between each two columns.
        let left = area.width.saturating_sub(widths.iter().sum::<u16>() + 2 + 6);
        let widths = widths.map(Constraint::Length).into_iter().chain([Constraint::Fill(1)]);
        let lines = rows.iter().map(|row| {
            let style = words::health_style(row.health, self.paint);
            let [health, of_name, rest @ .., verdict] = words::cells(row);
            let cells = [Cell::from(health).style(style), Cell::from(cut(of_name, usize::from(name)))];
            let verdict = Cell::from(cut(verdict, usize::from(left)));
            Row::new(cells.into_iter().chain(rest.map(Cell::from)).chain([verdict]))
        });
        let heading = Row::new(words::HEADING).style(Style::new().add_modifier(Modifier::DIM));
        let table = Table::new(lines, widths)
            .header(heading)
            .column_spacing(1)
            .highlight_symbol("▸ ")
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        self.table.select((!rows.is_empty()).then(|| self.position(rows)));
        frame.render_stateful_widget(table, area, &mut self.table);
    }

    fn draw_pane(&mut self, frame: &mut Frame<'_>, area: Rect, overview: &Overview) {
        let title = format!(" {} ", crate::status::text::printable(&overview.name));
        let block = Block::new().borders(Borders::TOP).title(title);
        let lines = detail::lines(overview, usize::from(area.width), self.paint);
        let inner = block.inner(area);
        // No further than to the last line.
        let beyond = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_sub(inner.height);
        self.scroll.0 = self.scroll.0.min(beyond);
        let block = if beyond > self.scroll.0 {
            block
                .title_bottom("")
                .title(Line::from(format!(" {} more lines ", beyond - self.scroll.0)).right_aligned())
        } else {
            block
        };
        frame.render_widget(Paragraph::new(Text::from(lines)).block(block).scroll(self.scroll), area);
    }

    fn draw_foot(&self, frame: &mut Frame<'_>, area: Rect) {
        let order = match self.sort {
            Sort::Worst => "worst",
            Sort::Name => "name",
            Sort::Behind => "behind",
            Sort::Rate => "rate",
        };
        let text = match self.focus {
            Focus::Filter => format!("/{}▏  enter keeps it, esc shows all", self.filter),
            _ if self.filter.is_empty() => {
                format!("↑↓ choose  enter open  pgdn scroll  s sort: {order}  / filter  ? keys  q quit")
            }
            _ => format!("↑↓ choose  enter open  s sort: {order}  /{}  esc shows all  q quit", self.filter),
        };
        frame.render_widget(Line::styled(text, Style::new().add_modifier(Modifier::DIM)), area);
    }
}

/// What is wrong comes first: where there is no room, the time goes, then the program's name.
fn draw_head(frame: &mut Frame<'_>, area: Rect, fleet: &Fleet) {
    let (version, at) = (format!("pgdiode {}  ", fleet.instance.version), &fleet.instance.at);
    let summary = words::summary(fleet);
    let [width_of_version, width_of_summary, width_of_at] =
        [&version, &summary, at].map(|text| text.chars().count());
    let width = usize::from(area.width);
    let version = if width_of_version + width_of_summary <= width { version } else { String::new() };
    let gap = width.saturating_sub(version.chars().count() + width_of_summary);
    let at = if gap > width_of_at { format!("{at:>gap$}") } else { String::new() };
    let strong = Style::new().add_modifier(Modifier::BOLD);
    let spans = vec![Span::styled(version + &summary, strong), Span::raw(at)];
    frame.render_widget(Line::from(spans), area);
}

/// What fits into so many columns, and a sign where something is left out.
fn cut(text: String, width: usize) -> String {
    if text.chars().count() <= width {
        return text;
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

fn draw_help(frame: &mut Frame<'_>) {
    let area = frame.area();
    let lines: Vec<Line<'_>> =
        KEYS.iter().map(|(key, text)| Line::from(format!(" {key:<10} {text} "))).collect();
    let width = lines.iter().map(Line::width).max().unwrap_or_default() + 2;
    let within = |size: usize, most: u16| u16::try_from(size).unwrap_or(u16::MAX).min(most);
    let (width, height) = (within(width, area.width), within(lines.len() + 2, area.height));
    let popup =
        Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    frame.render_widget(Clear, popup);
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" Keys ")), popup);
}
