//! What went wrong instead of a page: what, where, and what to do.

use askama::Template;

use crate::error::Result;
use crate::status::fleet::Fleet;

use super::overview::render;
use super::shell::{Room, Shell, Viewer};
use super::words::Clock;

/// A problem, as the API says it too.
#[derive(Debug, Clone, Default)]
pub struct ProblemPage {
    /// Of HTTP.
    pub status: u16,
    pub title: String,
    pub detail: String,
    pub hint: Option<String>,
    /// Where to go on: an address and what is there. A run that is in the way, the page of a pipeline.
    pub link: Option<(String, String)>,
}

#[derive(Template)]
#[template(path = "problem.html")]
struct Page<'a> {
    shell: Shell<'a>,
    page: &'a ProblemPage,
}

/// The page of a problem; without a fleet, one that tells nothing about the process.
pub fn problem(fleet: Option<&Fleet>, page: &ProblemPage, viewer: &Viewer) -> Result<String> {
    let shell = match fleet {
        Some(fleet) => Shell::new(page.title.clone(), Room::Elsewhere, fleet, viewer),
        None => Shell {
            title: page.title.clone(),
            room: Room::Elsewhere,
            viewer,
            instance: None,
            clock: Clock::new(""),
        },
    };
    render(&Page { shell, page })
}
