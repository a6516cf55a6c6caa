//! Where pgdiode keeps on this host what nothing follows from but must have a place: logs of detached runs, lock files.

use std::path::{Path, PathBuf};

use super::Variable;

/// `$XDG_STATE_HOME/pgdiode`, else below `~/.local/state`, else in the system's temporary directory.
pub fn state_directory(variable: Variable<'_>) -> PathBuf {
    let set = |name: &str| variable(name).filter(|path| !path.is_empty());
    let home = || set("HOME").map(|home| Path::new(&home).join(".local/state"));
    let state = set("XDG_STATE_HOME").map(PathBuf::from).or_else(home);
    state.unwrap_or_else(std::env::temp_dir).join("pgdiode")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_has_its_usual_place() {
        let of = |set: &[(&str, &str)]| {
            state_directory(&|name| {
                set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(of(&[("XDG_STATE_HOME", "/s"), ("HOME", "/h")]), Path::new("/s/pgdiode"));
        assert_eq!(of(&[("XDG_STATE_HOME", ""), ("HOME", "/h")]), Path::new("/h/.local/state/pgdiode"));
        assert_eq!(of(&[]), std::env::temp_dir().join("pgdiode"));
    }
}
