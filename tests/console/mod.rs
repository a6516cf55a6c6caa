//! The console's pages: rendered from a fleet that shows every state, and looked at as a browser and a reader would.

mod accessibility;
mod contrast;
mod document;
mod fleet;
mod gallery;
mod pages;
