//! What an engine does about runs that others left: it takes up what was at work, and what waits for something that has happened meanwhile.

use std::sync::Arc;
use std::time::Duration;

use lomusai_core::storage::{Batch, RunAppend};
use lomusai_core::{Error, Result};
use lomusai_wire::{Command, Kind, LogLevel, RunFilter, RunId, RunInfo, RunStatus, codes};

use crate::driver::First;
use crate::effects::PARENT_CANCELLED;
use crate::engine::StartReport;
use crate::inner::Inner;

impl Inner {
    pub(crate) async fn recover(self: &Arc<Self>) -> Result<StartReport> {
        self.open()?;
        let mut report = StartReport::default();
        let mut filter = RunFilter::default();
        filter.status = vec![RunStatus::Running, RunStatus::Waiting, RunStatus::Suspended, RunStatus::Blocked];
        filter.limit = Some(u32::MAX);
        // Our own sign of life comes first: what is claimed below must not look abandoned.
        if self.store.capabilities().shared {
            self.sign_of_life().await?;
        }
        // Oldest first: parents before their children.
        for info in self.store.runs(&filter).await?.into_iter().rev() {
            if self.live(&info.run_id).is_some() {
                continue;
            }
            if self.is_orphan(&info).await? {
                self.cancel_child(info.run_id);
                continue;
            }
            // Nothing was under way: it goes on when its time has come, or when it is told something.
            if matches!(info.status, RunStatus::Waiting | RunStatus::Suspended) {
                if let Some(at_ms) = info.wakes_at_ms {
                    self.wake_at(&info.run_id, at_ms);
                }
                if !self.has_missed_a_child(&info).await? {
                    continue;
                }
            }
            self.take_up(info, &mut report).await?;
        }
        self.keep_schedules();
        Ok(report)
    }

    /// Goes on with a run that nobody drives.
    async fn take_up(self: &Arc<Self>, info: RunInfo, report: &mut StartReport) -> Result<()> {
        let run_id = info.run_id.clone();
        if info.recoveries >= self.config.recoveries_max {
            self.mark(&info, RunStatus::Poisoned, "it was recovered too often without progress").await?;
            report.poisoned.push(run_id);
            return Ok(());
        }
        let loading = self.loading.lock().await;
        // Claimed twice, it would be taken from ourselves.
        if self.live(&run_id).is_some() {
            return Ok(());
        }
        match self.load(&run_id, None, None).await {
            Ok(driver) => {
                let live = driver.live.clone();
                if self.add_live(&live).is_ok() {
                    self.spawn(driver, First::Recover, None);
                    drop(loading);
                    match live.parent.clone() {
                        None => report.recovered.push(run_id),
                        // Its parent may have it for one that waits.
                        parent => self.wake_parent(&run_id, parent, None).await,
                    }
                }
            }
            Err(error) if error.is(codes::RUN_ACTIVE) => report.elsewhere.push(run_id),
            // It came to its end since it was listed.
            Err(error) if error.is(codes::RUN_FINISHED) || error.is(codes::RUN_UNKNOWN) => {}
            Err(error) => {
                drop(loading);
                self.block(info, error, report).await?;
            }
        }
        Ok(())
    }

    async fn block(&self, info: RunInfo, error: Error, report: &mut StartReport) -> Result<()> {
        // The store's own trouble says nothing about the run.
        if error.kind() == Kind::Storage && !error.is(codes::STORE_CORRUPT) {
            return Err(error);
        }
        self.mark(&info, RunStatus::Blocked, &error.body().message).await?;
        self.log(LogLevel::Warn, &format!("run `{}` is blocked: {error}", info.run_id));
        report.blocked.push((info.run_id, error));
        Ok(())
    }

    /// Whether the run that started this one has ended without it, and nobody lived to tell it.
    async fn is_orphan(&self, info: &RunInfo) -> Result<bool> {
        let Some(parent) = &info.parent else { return Ok(false) };
        Ok(match self.store.run(&parent.run_id).await? {
            None => false,
            // What waited when its parent failed waits on, for that to be tried again. A child that failed is not: another is begun.
            Some(parent) if parent.status == RunStatus::Failed && parent.parent.is_none() => {
                info.status != RunStatus::Suspended
            }
            Some(parent) => parent.status.is_final(),
        })
    }

    /// Whether a child that this run waits for has gone on, and nobody lived to tell it.
    async fn has_missed_a_child(&self, info: &RunInfo) -> Result<bool> {
        if info.status == RunStatus::Suspended {
            for child in info.pending.iter().filter_map(|pending| pending.child.as_ref()) {
                if self.store.run(child).await?.is_some_and(|child| child.status != RunStatus::Suspended) {
                    return Ok(true);
                }
            }
            return Ok(false);
        }
        let mut filter = RunFilter::default();
        (filter.parent, filter.limit) = (Some(info.run_id.clone()), Some(u32::MAX));
        Ok(self.store.runs(&filter).await?.iter().any(|child| child.status != RunStatus::Suspended))
    }

    /// Whether a child that its parent has for suspended is not, or not any more. One that was at work is taken up.
    pub(crate) async fn has_moved_on(self: &Arc<Self>, child: &RunId) -> Result<bool> {
        if self.live(child).is_some() {
            return Ok(true);
        }
        match self.store.run(child).await?.map(|info| info.status) {
            Some(RunStatus::Running) => match self.revive_child(child, None).await {
                Ok(_) => Ok(true),
                // Who has it will tell, or its lease runs out.
                Err(error) if error.is(codes::RUN_ACTIVE) => Ok(false),
                Err(error) => Err(error),
            },
            Some(status) => Ok(status.is_final()),
            None => Ok(false),
        }
    }

    /// Cancels a child that may only be in the store. In the background: its parent does not wait for it.
    pub(crate) fn cancel_child(self: &Arc<Self>, child: RunId) {
        let inner = Arc::downgrade(self);
        self.threads.spawn(async move {
            while let Some(inner) = inner.upgrade() {
                let command = Command::Cancel { grace_ms: 0, reason: Some(PARENT_CANCELLED.into()) };
                match inner.command(&child, command, None, None).await {
                    // Another engine has it, and knows nothing of its parent's end: once that has let go of it, or its lease is over.
                    Err(error) if error.is(codes::RUN_ACTIVE) || error.kind() == Kind::Storage => {}
                    // One that has ended in the meantime is well.
                    _ => return,
                }
                let wait = inner.config.lease_ms.max(300);
                drop(inner);
                tokio::time::sleep(Duration::from_millis(wait)).await;
            }
        });
    }

    async fn mark(&self, info: &RunInfo, status: RunStatus, why: &str) -> Result<()> {
        let Ok(epoch) = self.store.claim(&info.run_id, &self.owner, self.clock.now_ms()).await else { return Ok(()) };
        let mut info = info.clone();
        info.status = status;
        info.blocked_by = Some(why.to_owned());
        info.updated_at_ms = self.clock.now_ms();
        let (run_id, expected_seq) = (info.run_id.clone(), info.seq);
        let mut batch = Batch::default();
        batch.run = Some(RunAppend {
            run_id: run_id.clone(),
            expected_seq,
            epoch,
            owner: self.owner.clone(),
            events: Arc::default(),
            info: Some(Box::new(info)),
        });
        let committed = self.store.commit(batch).await;
        self.store.release(&run_id, epoch).await?;
        match committed {
            // Somebody else has moved it on: then it is not stuck.
            Err(error) if error.is(codes::SEQUENCE_CONFLICT) => Ok(()),
            other => other,
        }
    }
}
