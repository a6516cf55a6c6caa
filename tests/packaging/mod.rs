//! The unit for systemd is one that systemd understands, and shuts pgdiode in. Where there is no `systemd-analyze`
//! nothing can be said about it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// `systemd-analyze security` counts what a service could do, from 0 (nothing) to 100.
const EXPOSURE_MAX: &str = "20";

#[test]
fn systemd_takes_the_unit() {
    let unit = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/pgdiode.service"));
    let unit = unit.expect("the unit can be read");
    let directory = tempfile::tempdir().expect("a directory can be made");
    let path = directory.path().join("pgdiode.service");
    // It is installed elsewhere, and its manual page is not.
    let here = unit
        .replace("/usr/local/bin/pgdiode", env!("CARGO_BIN_EXE_pgdiode"))
        .replace("Documentation=man:pgdiode(1)\n", "");
    assert!(here.contains(env!("CARGO_BIN_EXE_pgdiode")), "the unit starts something else");
    fs::write(&path, here).expect("the unit can be written");

    let Some(verified) = analyze(&["verify"], &path) else { return };
    let said = String::from_utf8_lossy(&verified.stderr);
    // Other units of the machine are loaded too, and are not ours to mend.
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("pgdiode.service")).collect();
    assert!(ours.is_empty(), "{}", ours.join("\n"));

    let limit = format!("--threshold={EXPOSURE_MAX}");
    let Some(exposure) = analyze(&["security", "--offline=true", "--no-pager", &limit], &path) else {
        return;
    };
    assert!(exposure.status.success(), "{}", String::from_utf8_lossy(&exposure.stdout));
}

fn analyze(arguments: &[&str], unit: &Path) -> Option<Output> {
    Command::new("systemd-analyze").args(arguments).arg(unit).output().ok()
}
