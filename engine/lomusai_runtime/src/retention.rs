//! Which runs that have ended are kept, and for how long.

use std::sync::Arc;

use lomusai_core::{Error, Result};
use lomusai_wire::{LogLevel, RunFilter, RunId, RunInfo, RunStatus, SpecKind, codes};
use serde::{Deserialize, Serialize};

use crate::Engine;
use crate::inner::Inner;

/// So many runs are looked at together.
const PAGE: u32 = 1_000;

/// So many journals are compacted in one transaction: the others wait that long.
const COMPACTED_AT_ONCE: usize = 32;

/// How long runs that have ended are kept. A run goes, and its children with it, when either bound says so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Retention {
    /// Of runs that ended so. Default: all that have ended. `poisoned` can be named, too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub status: Vec<RunStatus>,
    /// Of agents, or of workflows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<SpecKind>,
    /// Of the agent or workflow of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// How long after their end, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_ms: Option<u64>,
    /// How many, the newest of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_runs: Option<u32>,
}

impl Retention {
    /// Keeps runs so long after their end.
    pub fn for_ms(keep_ms: u64) -> Self {
        Self { keep_ms: Some(keep_ms), ..Self::default() }
    }

    /// Keeps so many runs.
    pub fn newest(keep_runs: u32) -> Self {
        Self { keep_runs: Some(keep_runs), ..Self::default() }
    }

    /// # Errors
    /// `argument_invalid`.
    pub(crate) fn check(&self) -> Result<()> {
        let invalid = |why: String| Err(Error::new(codes::ARGUMENT_INVALID, format!("retention: {why}")));
        if self.keep_ms.is_none() && self.keep_runs.is_none() {
            return invalid("say how long (`keep_ms`) or how many (`keep_runs`); 0 keeps none".into());
        }
        match self.status.iter().find(|status| !status.is_final() && **status != RunStatus::Poisoned) {
            Some(status) => invalid(format!("a run that is {} has not ended, and is kept", status.as_str())),
            None => Ok(()),
        }
    }

    fn filter(&self) -> RunFilter {
        let mut filter = RunFilter::default();
        filter.status.clone_from(&self.status);
        if filter.status.is_empty() {
            filter.status = RunStatus::FINAL.to_vec();
        }
        (filter.kind, filter.agent, filter.top) = (self.kind, self.agent.clone(), true);
        filter
    }
}

impl Engine {
    /// Removes the runs that no rule keeps, and says which: by these rules, or by those of the settings. With `only_tell`, removes nothing.
    /// An engine that was started does this by itself now and then.
    ///
    /// # Errors
    /// `argument_invalid` for a rule that bounds nothing; storage errors.
    pub async fn prune(&self, rules: Option<&[Retention]>, only_tell: bool) -> Result<Vec<RunId>> {
        self.0.open()?;
        let rules = rules.unwrap_or(&self.0.config.retention);
        rules.iter().try_for_each(Retention::check)?;
        let mut gone = Vec::new();
        for rule in rules {
            for run_id in self.0.beyond(rule).await? {
                if gone.contains(&run_id) {
                    continue;
                }
                if !only_tell {
                    match self.delete_run(&run_id).await {
                        Ok(true) => {}
                        // Somebody else removed it, or it was taken up again.
                        Ok(false) => continue,
                        Err(error) if error.is(codes::RUN_ACTIVE) => continue,
                        Err(error) => return Err(error),
                    }
                }
                gone.push(run_id);
            }
        }
        Ok(gone)
    }
}

impl Engine {
    /// Has the journals of runs that ended so long ago, in milliseconds, take less room: they read as before. By the settings' `compact_after_ms`
    /// where nothing is said. Gives how many were compacted; 0 from a store that cannot. An engine that was started does this by itself now and
    /// then.
    ///
    /// It goes on in steps of a few runs, so that others write in between. Dropping the future leaves it where it is: nothing is lost by that.
    ///
    /// # Errors
    /// Storage errors; `engine_closed`.
    pub async fn compact(&self, ended_ms_ago: Option<u64>) -> Result<usize> {
        let inner = &self.0;
        inner.open()?;
        let Some(ago) = ended_ms_ago.or(inner.config.compact_after_ms) else { return Ok(0) };
        // What ends in this very moment has ended, too.
        let before = (inner.clock.now_ms() + 1).saturating_sub(ago);
        let (mut runs, mut next) = (0, Some(0));
        while let Some(from) = next {
            inner.open()?;
            let done = inner.store.compact(before, from, COMPACTED_AT_ONCE).await?;
            (runs, next) = (runs + done.runs, done.next);
        }
        Ok(runs)
    }

    /// What is done now and then: runs that are kept no longer go, and old journals are compacted.
    pub(crate) async fn tidy(&self) {
        let inner = &self.0;
        if !inner.config.retention.is_empty()
            && let Err(error) = self.prune(None, false).await
        {
            inner.log(LogLevel::Warn, &format!("runs that are kept no longer could not be removed: {error}"));
        }
        match self.compact(None).await {
            Err(error) if !error.is(codes::ENGINE_CLOSED) => {
                inner.log(LogLevel::Warn, &format!("old journals could not be compacted: {error}"));
            }
            _ => {}
        }
    }
}

impl Inner {
    /// Runs that a rule does not keep.
    async fn beyond(self: &Arc<Self>, rule: &Retention) -> Result<Vec<RunId>> {
        let oldest = rule.keep_ms.map(|ms| self.clock.now_ms().saturating_sub(ms));
        let mut filter = rule.filter();
        filter.limit = Some(PAGE);
        let mut seen = 0;
        let mut gone = Vec::new();
        loop {
            filter.offset = Some(seen);
            let page: Vec<RunInfo> = self.store.runs(&filter).await?;
            for info in &page {
                seen += 1;
                let late = oldest.is_some_and(|oldest| info.updated_at_ms <= oldest);
                if late || rule.keep_runs.is_some_and(|keep| seen > keep) {
                    gone.push(info.run_id.clone());
                }
            }
            if page.len() < PAGE as usize {
                return Ok(gone);
            }
        }
    }
}
