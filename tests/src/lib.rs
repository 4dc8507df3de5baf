//! What crosses a border: conformance vectors and their runners.
//!
//! `tests/conformance/README.md` is the contract. [`vector`] reads it, [`behaviour`] is what host functions do in it, [`matching`]
//! says how a run differs from what was expected, and [`bare`] runs a vector with no runtime at all: the machine, a journal and
//! a loop. A runner for a real driver shares all but the last.

pub mod bare;
pub mod behaviour;
pub mod matching;
pub mod vector;

#[cfg(test)]
mod tests {
    use lomusai_core::journal;
    use lomusai_wire::Event;

    const README: &str = include_str!("../conformance/README.md");

    fn example(name: &str) -> &'static str {
        let block = README.split_once(&format!("<!-- example: {name} -->\n```")).expect("the example is there").1;
        block.split_once('\n').and_then(|(_, rest)| rest.split_once("```")).expect("it is a block").0
    }

    #[test]
    fn the_worked_example_works() {
        let events: Vec<Event> = serde_json::from_str(example("journal")).expect("events");
        assert_eq!(journal::canonical(&events), example("lines").lines().collect::<Vec<_>>());
        assert_eq!(journal::digest(&events), example("digest").trim());
    }

    #[test]
    fn the_list_of_host_worded_errors_is_whole() {
        for code in journal::HOST_WORDED {
            assert!(README.contains(&format!("`{code}`")), "{code}");
        }
    }
}
