//! No interleaving of calls overspends a budget by more than what one call took beyond its reservation.

use lomusai_core::budget::{Amount, Book, Need, Reservation, Verdict};
use lomusai_wire::Budget;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Do {
    /// A call begins: of one run or the other, at most so many tokens (0: nobody knows), at least so many.
    Begin { run: usize, most: u64, least: u64 },
    /// The call at this place ends, and took this share, in percent, of what it reserved.
    End { place: usize, share: u64 },
}

fn what_to_do() -> impl Strategy<Value = Do> {
    prop_oneof![
        (0..3_usize, 0..400_u64, 1..20_u64).prop_map(|(run, most, least)| Do::Begin { run, most, least }),
        (0..8_usize, 0..=100_u64).prop_map(|(place, share)| Do::End { place, share }),
    ]
}

/// Two runs with budgets of their own and one without, all on a shared one.
fn book() -> (Book, [Vec<String>; 3]) {
    let mut book = Book::default();
    book.open("team", "`team`", Budget::tokens(1_000), Amount::default());
    book.open("a", "the run", Budget::tokens(600), Amount::default());
    book.open("b", "the run", Budget::tokens(300), Amount::default());
    let keys = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect();
    (book, [keys(&["team", "a"]), keys(&["team", "b"]), keys(&["team", "c"])])
}

fn spent(book: &Book, key: &str) -> u64 {
    book.used(key).expect("it is open").0.tokens
}

/// Plays the steps; `beyond` is what the last call takes over its reservation.
fn play(steps: &[Do], beyond: u64) -> Result<(), TestCaseError> {
    let (mut book, keys) = book();
    let mut open: Vec<Reservation> = Vec::new();
    for step in steps {
        match step {
            Do::Begin { run, most, least } => {
                let most = if *most == 0 { u64::MAX } else { (*most).max(*least) };
                let need = Need::new(Amount::new(most, 0, 1, 0), Amount::new(*least, 0, 1, 0));
                match book.reserve(&keys[*run], need) {
                    Verdict::Granted(held) => {
                        prop_assert!(held.amount().tokens >= *least && held.amount().tokens <= most);
                        prop_assert_eq!(held.is_bounded(), held.amount().tokens < most);
                        open.push(held);
                    }
                    // Somebody who waits is woken by somebody.
                    Verdict::Wait => prop_assert!(!open.is_empty()),
                    Verdict::Exhausted(why) => prop_assert!(why.spent + least > why.limit || why.spent >= why.limit),
                }
            }
            Do::End { place, share } if !open.is_empty() => {
                let held = open.remove(place % open.len());
                let took = held.amount().tokens.saturating_mul(*share) / 100;
                book.settle(held, Amount::new(took, 0, 1, 0));
            }
            Do::End { .. } => {}
        }
        for (key, limit) in [("team", 1_000), ("a", 600), ("b", 300)] {
            let (spent, reserved) = book.used(key).expect("it is open");
            prop_assert!(spent.tokens + reserved.tokens <= limit, "{}: {:?} {:?}", key, spent, reserved);
        }
    }
    let last = open.pop();
    for held in open {
        let all = held.amount();
        book.settle(held, all);
    }
    if let Some(held) = last {
        let took = held.amount().tokens + beyond;
        book.settle(held, Amount::new(took, 0, 1, 0));
    }
    for (key, limit) in [("team", 1_000), ("a", 600), ("b", 300)] {
        prop_assert!(spent(&book, key) <= limit + beyond, "{key}: {}", spent(&book, key));
        let (_, reserved) = book.used(key).expect("it is open");
        prop_assert_eq!(reserved.tokens, 0, "what was reserved came back");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_interleaving_overspends(steps in prop::collection::vec(what_to_do(), 1..60), beyond in 0..500_u64) {
        play(&steps, beyond)?;
    }
}
