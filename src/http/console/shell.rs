//! What is around every page: who looks, at which process, and where else one can go.

use crate::status::fleet::{Fleet, Instance};

use super::assets::asset_url;
use super::words::{Clock, Markup};

/// Who looks at a page, and what they may do there.
#[derive(Debug, Clone, Default)]
#[allow(clippy::struct_excessive_bools)] // answers to so many questions
pub struct Viewer {
    /// Empty where nobody needs to log in.
    pub name: String,
    /// Operators: every button that changes something.
    pub may_act: bool,
    /// Auditors: the audit log.
    pub may_audit: bool,
    /// The hidden field `csrf` of each form.
    pub csrf: String,
    /// Random, new for each page: with its verb it is the hidden field `idempotency_key` of a form. Unique together
    /// with the path that the form is sent to.
    pub form_key: String,
    /// What became of the form that led here.
    pub flash: Option<Flash>,
    /// There is a session to end: by a POST to `/logout`.
    pub may_sign_out: bool,
    /// The page is asked for by `console.js` (`X-Fragment: live`): without its frame.
    pub is_fragment: bool,
}

/// What became of something that was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flash {
    pub is_bad: bool,
    pub text: String,
    pub hint: Option<String>,
}

/// The part of the console that a page is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    Fleet,
    Audit,
    Settings,
    Elsewhere,
}

pub(super) struct Shell<'a> {
    pub title: String,
    pub room: Room,
    pub viewer: &'a Viewer,
    pub instance: Option<&'a Instance>,
    pub clock: Clock,
}

impl<'a> Shell<'a> {
    pub fn new(title: impl Into<String>, room: Room, fleet: &'a Fleet, viewer: &'a Viewer) -> Shell<'a> {
        let clock = Clock::new(&fleet.instance.at);
        Shell { title: title.into(), room, viewer, instance: Some(&fleet.instance), clock }
    }

    pub fn is_in(&self, room: Room) -> bool {
        self.room == room
    }

    pub fn as_of(&self) -> Markup {
        self.instance.map(|instance| self.clock.moment(&instance.at)).unwrap_or_default()
    }

    pub fn css() -> String {
        asset_url("console.css")
    }

    pub fn js() -> String {
        asset_url("console.js")
    }

    pub fn icon() -> String {
        asset_url("icon.svg")
    }
}
