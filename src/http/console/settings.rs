//! What the process goes by: its configuration with secrets as set or unset, versions and certificates. Only shown.

use askama::Template;

use crate::error::Result;
use crate::status::fleet::{Fleet, Instance};

use super::overview::render;
use super::shell::{Room, Shell, Viewer};
use super::words::{Chip, Markup, Tone, rough_days};

/// What the page shows.
#[derive(Debug, Clone, Default)]
pub struct SettingsPage {
    /// Where the configuration was read from.
    pub path: Option<String>,
    pub sections: Vec<Section>,
    pub certificates: Vec<Certificate>,
    /// What it was built from and with: a name and a version each.
    pub versions: Vec<(String, String)>,
}

/// A part of the configuration: a pipeline, the door.
#[derive(Debug, Clone, Default)]
pub struct Section {
    pub title: String,
    /// Key and value, as they stand in the file; of a secret `set` or `unset`, never more.
    pub values: Vec<(String, String)>,
}

#[derive(Debug, Clone)]
pub struct Certificate {
    /// What it is for.
    pub of: String,
    /// Empty where nobody knows.
    pub subject: String,
    pub issuer: String,
    /// RFC 3339.
    pub expires_at: String,
    /// Until when another one counts, which its file holds and the door does not show yet.
    pub waiting: Option<String>,
}

#[derive(Template)]
#[template(path = "settings.html")]
struct Page<'a> {
    shell: Shell<'a>,
    shown: &'a SettingsPage,
    groups: Vec<Group<'a>>,
    instance: &'a Instance,
    started: Markup,
    configured: Markup,
    up: String,
    certificates: Vec<Shown<'a>>,
}

struct Shown<'a> {
    of: &'a Certificate,
    chip: Chip,
    expires: Markup,
    waiting: Option<Markup>,
}

/// A section and those below it: `pipeline.orders` and `pipeline.orders.copy`.
struct Group<'a> {
    title: &'a str,
    is_open: bool,
    /// Each under the rest of its name; the section itself under none.
    parts: Vec<(&'a str, &'a Section)>,
}

/// As many are shown at once; of more, the names.
const OPEN_MAX: usize = 3;

fn groups(sections: &[Section]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for section in sections {
        let below = groups
            .last()
            .and_then(|group| section.title.strip_prefix(group.title))
            .and_then(|rest| rest.strip_prefix('.'));
        match (below, groups.last_mut()) {
            (Some(rest), Some(group)) => group.parts.push((rest, section)),
            _ => groups.push(Group { title: &section.title, is_open: false, parts: vec![("", section)] }),
        }
    }
    let is_open = groups.len() <= OPEN_MAX;
    for group in &mut groups {
        group.is_open = is_open;
    }
    groups
}

/// The page of the effective configuration.
pub fn settings(fleet: &Fleet, page: &SettingsPage, viewer: &Viewer) -> Result<String> {
    let shell = Shell::new("Settings", Room::Settings, fleet, viewer);
    let clock = shell.clock;
    let certificates = page
        .certificates
        .iter()
        .map(|one| {
            let left = one.expires_at.parse::<jiff::Timestamp>().ok().zip(clock.now());
            let chip = match left.map(|(at, now)| at.as_second() - now.as_second()) {
                None => Chip::new(Tone::Idle, "unknown"),
                Some(seconds) if seconds <= 0 => Chip::new(Tone::Bad, "expired"),
                Some(seconds) => {
                    #[allow(clippy::cast_precision_loss)] // days
                    let days = seconds as f64 / 86_400.0;
                    let tone = if days < 14.0 { Tone::Warn } else { Tone::Good };
                    Chip::new(tone, format!("{} left", rough_days(days)))
                }
            };
            let waiting = one.waiting.as_deref().map(|at| clock.moment(at));
            Shown { of: one, chip, expires: clock.moment(&one.expires_at), waiting }
        })
        .collect();
    render(&Page {
        shown: page,
        groups: groups(&page.sections),
        instance: &fleet.instance,
        started: clock.moment(&fleet.instance.started_at),
        configured: clock.moment(&fleet.instance.configured_at),
        up: clock.elapsed(&fleet.instance.started_at).unwrap_or_default(),
        certificates,
        shell,
    })
}
