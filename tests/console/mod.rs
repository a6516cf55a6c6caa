//! The console's pages: rendered from a fleet that shows every state, and looked at as a browser and a reader would.

mod accessibility;
mod browser;
mod contrast;
mod document;
mod fleet;
mod gallery;
mod layout;
mod live;
mod pages;
