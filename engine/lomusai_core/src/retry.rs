//! When a failed call is tried again. The one place that says so, for runs and for the layers over providers.

use lomusai_wire::ErrorBody;

/// How often and how soon a failed call is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retry {
    /// Tries after the first. Default 2.
    pub max_retries: u32,
    /// The wait before the first retry; each further wait is twice as long. Default 1,000.
    pub base_ms: u64,
    /// The longest wait, also where the other side asks for a longer one. Default 30,000.
    pub max_ms: u64,
}

impl Default for Retry {
    fn default() -> Self {
        Self { max_retries: 2, base_ms: 1_000, max_ms: 30_000 }
    }
}

impl Retry {
    /// So many retries, with the default waits.
    pub fn new(max_retries: u32) -> Self {
        Self { max_retries, ..Self::default() }
    }

    /// How long to wait before the next try, after `tries` that failed, the last one with this error. `None`: give up.
    ///
    /// What the other side asked for (`Retry-After`) goes before the own rule.
    pub fn wait_ms(&self, tries: u32, error: &ErrorBody) -> Option<u64> {
        if !error.retryable || tries > self.max_retries {
            return None;
        }
        let own = || self.base_ms.saturating_mul(1 << tries.saturating_sub(1).min(20));
        Some(error.retry_after_ms.unwrap_or_else(own).min(self.max_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lomusai_wire::codes;

    fn failed() -> ErrorBody {
        ErrorBody::new(codes::PROVIDER_FAILED, "down")
    }

    #[test]
    fn waits_double_and_end() {
        let waits: Vec<_> = (1..=4).map(|tries| Retry::new(3).wait_ms(tries, &failed())).collect();
        assert_eq!(waits, [Some(1_000), Some(2_000), Some(4_000), None]);
        assert_eq!(Retry::new(100).wait_ms(60, &failed()), Some(30_000));
    }

    #[test]
    fn what_the_other_side_asks_for_counts_within_the_cap() {
        let mut error = failed();
        error.retry_after_ms = Some(7);
        assert_eq!(Retry::default().wait_ms(1, &error), Some(7));
        error.retry_after_ms = Some(3_600_000);
        assert_eq!(Retry::default().wait_ms(1, &error), Some(30_000));
    }

    #[test]
    fn what_cannot_succeed_is_not_tried_again() {
        assert_eq!(Retry::default().wait_ms(1, &ErrorBody::new(codes::PROVIDER_REJECTED, "no")), None);
        assert_eq!(Retry::new(0).wait_ms(1, &failed()), None);
    }
}
