//! What can go wrong, by name, and how often it did.

use std::collections::BTreeMap;

/// What befalls a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A commit is refused by the disk.
    CommitFails,
    /// A commit is written, and its answer is an error.
    CommitAnswerLost,
    /// A commit takes long.
    CommitSlow,
    /// Reading fails.
    ReadFails,
    /// A lease is not taken, kept or given back.
    LeaseFails,
    /// A lease is taken, and the answer is an error.
    LeaseAnswerLost,
    /// A process dies before a commit is written.
    CrashBeforeCommit,
    /// A process dies after a commit is written, and nobody was told.
    CrashAfterCommit,
    /// A process dies in the middle of a step.
    CrashInStep,
    /// A process dies at any time.
    Crash,
    /// A process is stopped, and wakes again.
    Stopped,
    /// A process wakes again whose run another one has taken over.
    Overtaken,
    /// What an earlier holder wrote was refused.
    StaleWriteRefused,
    /// A step fails.
    StepFails,
    /// A step answers after its time was over.
    StepLate,
    /// A step never answers.
    StepSilent,
    /// A step answers twice, and goes on talking.
    StepTwice,
    /// The clock is set forward.
    ClockForward,
    /// The clock is set back.
    ClockBack,
    /// A signal comes before anybody waits for it.
    SignalEarly,
    /// A signal or a resume comes twice.
    CommandTwice,
    /// A command for what does not wait.
    CommandAmiss,
    /// A command that was given up by its sender.
    CommandDropped,
    /// A run is cancelled.
    Cancelled,
    /// A run that failed is tried again.
    Retried,
    /// A second engine looks for work while the first is at it.
    StartedTwice,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 26] = [
        Self::CommitFails,
        Self::CommitAnswerLost,
        Self::CommitSlow,
        Self::ReadFails,
        Self::LeaseFails,
        Self::LeaseAnswerLost,
        Self::CrashBeforeCommit,
        Self::CrashAfterCommit,
        Self::CrashInStep,
        Self::Crash,
        Self::Stopped,
        Self::Overtaken,
        Self::StaleWriteRefused,
        Self::StepFails,
        Self::StepLate,
        Self::StepSilent,
        Self::StepTwice,
        Self::ClockForward,
        Self::ClockBack,
        Self::SignalEarly,
        Self::CommandTwice,
        Self::CommandAmiss,
        Self::CommandDropped,
        Self::Cancelled,
        Self::Retried,
        Self::StartedTwice,
    ];
}

/// How often each happened.
#[derive(Clone, Debug, Default)]
pub struct Counts(BTreeMap<Fault, u64>);

impl Counts {
    /// It happened once more.
    pub fn add(&mut self, fault: Fault) {
        *self.0.entry(fault).or_default() += 1;
    }

    /// How often it happened.
    pub fn of(&self, fault: Fault) -> u64 {
        self.0.get(&fault).copied().unwrap_or_default()
    }

    /// These as well.
    pub fn merge(&mut self, other: &Self) {
        for (fault, count) in &other.0 {
            *self.0.entry(*fault).or_default() += count;
        }
    }
}
