//! The real clock and real ids. The only place that reads them.

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
        format!("run_{:011x}{}", SystemClock.now_ms(), random_hex(10)).into()
    }
}

/// So many random bytes, in hex.
pub(crate) fn random_hex(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random).expect("the system has randomness");
    random.iter().map(|byte| format!("{byte:02x}")).collect()
}
