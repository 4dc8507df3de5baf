//! The real clock and real ids. The only place that reads them.

use std::fmt::Write;

use lomusai_core::seam::{Clock, Ids};
use lomusai_wire::RunId;

/// The system's clock.
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    // This is the seam that everything else goes through.
    #[allow(clippy::disallowed_methods)]
    fn now_ms(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| since.as_millis() as u64)
    }
}

/// Ids that begin with the time, so that they sort by age, and end with 80 random bits.
pub(crate) struct RandomIds;

impl Ids for RandomIds {
    fn run_id(&self) -> RunId {
        let mut random = [0; 10];
        fill(&mut random);
        let mut id = String::with_capacity(40);
        let _ = write!(id, "run_{:011x}", SystemClock.now_ms());
        push_hex(&mut id, &random);
        id.into()
    }

    fn owner(&self) -> String {
        let mut random = [0; 8];
        fill(&mut random);
        let mut owner = String::from("engine_");
        push_hex(&mut owner, &random);
        owner
    }
}

fn fill(random: &mut [u8]) {
    getrandom::fill(random).expect("the system has randomness");
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        text.extend([byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16).expect("below 16")));
    }
}
