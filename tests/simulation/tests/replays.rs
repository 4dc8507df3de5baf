//! What the simulation itself has to hold to, seeds that once found something, and that the mutants still fit the code.

use std::path::Path;
use std::process::Command;

use lomusai_simulation::{mended, open, play};

#[test]
fn the_same_seed_plays_the_same_game() {
    for seed in 0..20 {
        let (one, other) = (play(seed, None), play(seed, None));
        assert_eq!((one.trace, one.wrong), (other.trace, other.wrong), "seed {seed}");
    }
    let traces: std::collections::BTreeSet<u64> = (0..20).map(|seed| play(seed, None).trace).collect();
    assert_eq!(traces.len(), 20, "two seeds that play the same game");
}

#[test]
fn what_once_was_found_is_not_there_any_more() {
    for (seed, what) in mended() {
        assert_eq!(play(seed, None).wrong, None, "{seed}: {what}");
    }
}

#[test]
fn what_is_listed_as_not_mended_is_still_found() {
    for (seed, what) in open() {
        assert!(play(seed, None).wrong.is_some(), "mended: move it to seeds.txt: {seed} {what}");
    }
}

#[test]
fn the_mutants_still_fit_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut patches: Vec<_> = std::fs::read_dir(root.join("tests/mutants"))
        .expect("the mutants")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "patch"))
        .collect();
    patches.sort();
    assert_eq!(patches.len(), 10);
    for patch in patches {
        let output = Command::new("git").args(["apply", "--check"]).arg(&patch).current_dir(&root).output();
        let output = output.expect("git");
        let name = patch.file_name().unwrap_or_default().to_string_lossy().into_owned();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
