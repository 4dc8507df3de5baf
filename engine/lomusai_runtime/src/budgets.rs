//! The engine's budgets: the core's book, with a lock around it and somebody who wakes those that wait.

use std::sync::Arc;

use lomusai_core::budget::{self, Amount, Book, Plan, Reservation, Verdict};
use lomusai_core::storage::Store;
use lomusai_core::sync::Mutex;
use lomusai_core::{Error, Result};
use lomusai_wire::{Budget, Event, RunFilter, RunId, Usage, codes};
use tokio::sync::Notify;
use tokio::time::Instant;

/// All budgets of an engine.
#[derive(Default)]
pub(crate) struct Budgets {
    book: Mutex<Book>,
    settled: Notify,
}

/// The budgets that a run draws on. Its own ends with it.
pub(crate) struct RunBudgets {
    budgets: Arc<Budgets>,
    keys: Vec<String>,
    own: Option<String>,
}

fn shared_key(name: &str) -> String {
    format!("shared:{name}")
}

fn run_key(run_id: &str) -> String {
    format!("run:{run_id}")
}

impl Budgets {
    pub(crate) fn new(shared: impl IntoIterator<Item = (String, Budget)>) -> Arc<Self> {
        let budgets = Self::default();
        for (name, limit) in shared {
            budgets.book.lock().open(&shared_key(&name), &format!("`{name}`"), limit, Amount::default());
        }
        Arc::new(budgets)
    }

    /// Opens what a run draws on: its own budget, those of the runs it is a child of, and the shared ones it names. `spent` is what it used
    /// before, where it was loaded.
    ///
    /// # Errors
    /// `budget_unknown`.
    pub(crate) fn of_run(
        self: &Arc<Self>,
        run_id: &RunId,
        own: Option<Budget>,
        shared: &[String],
        spent: Amount,
    ) -> Result<RunBudgets> {
        let mut book = self.book.lock();
        let id = run_id.as_str();
        let own_key = run_key(id);
        let parents = id.match_indices('/').map(|(end, _)| run_key(&id[..end]));
        let mut keys: Vec<String> = parents.collect();
        for key in &keys {
            book.adopt(key, &own_key, spent);
        }
        for name in shared {
            let key = shared_key(name);
            if !book.has(&key) {
                return Err(Error::new(
                    codes::BUDGET_UNKNOWN,
                    format!("the engine has no budget `{name}`: name it in its setting `budgets`, or correct `shared_budgets`"),
                )
                .with("budget", name.as_str()));
            }
            keys.push(key);
        }
        if let Some(limit) = own {
            // Not by its id: what the journal says of one run must be what it says of another.
            book.open(&own_key, "the run", limit, spent);
        }
        keys.push(own_key.clone());
        Ok(RunBudgets { budgets: self.clone(), keys, own: own.map(|_| own_key) })
    }

    /// What was spent of a shared budget.
    pub(crate) fn spent(&self, name: &str) -> Option<Amount> {
        self.book.lock().used(&shared_key(name)).map(|(spent, _)| spent)
    }
}

impl RunBudgets {
    /// Names of shared budgets among these, for children.
    pub(crate) fn shared(&self) -> Vec<String> {
        self.keys.iter().filter_map(|key| key.strip_prefix("shared:")).map(str::to_owned).collect()
    }

    /// Whether anything bounds the run.
    pub(crate) fn bounds_anything(&self) -> bool {
        let book = self.budgets.book.lock();
        self.keys.iter().any(|key| book.has(key))
    }

    pub(crate) fn bounds_money(&self) -> bool {
        self.budgets.book.lock().bounds_money(&self.keys)
    }

    /// Reserves what a call may take; waits while others hold it.
    ///
    /// # Errors
    /// `budget_exhausted`.
    pub(crate) async fn reserve(&self, plan: Plan) -> Result<Held> {
        loop {
            let settled = self.budgets.settled.notified();
            tokio::pin!(settled);
            // Registered before the look, so that nothing settled in between is missed.
            settled.as_mut().enable();
            let verdict = self.budgets.book.lock().reserve(&self.keys, plan.need());
            match verdict {
                Verdict::Granted(reservation) => {
                    return Ok(Held {
                        budgets: self.budgets.clone(),
                        reservation: Some(reservation),
                        plan,
                        began: Instant::now(),
                        usage: Usage::default(),
                        answer_bytes: 0,
                    });
                }
                Verdict::Wait => settled.await,
                Verdict::Exhausted(why) => return Err(why.into()),
            }
        }
    }
}

impl Drop for RunBudgets {
    fn drop(&mut self) {
        if let Some(own) = &self.own {
            self.budgets.book.lock().close(own);
        }
    }
}

/// What a call holds. Settled when it is dropped, however the call ended.
pub(crate) struct Held {
    budgets: Arc<Budgets>,
    reservation: Option<Reservation>,
    plan: Plan,
    began: Instant,
    /// What the provider has counted so far.
    pub(crate) usage: Usage,
    /// Bytes of the answer so far.
    pub(crate) answer_bytes: u64,
}

impl Held {
    fn reservation(&self) -> &Reservation {
        self.reservation.as_ref().expect("only taken when dropped")
    }

    /// The longest answer there is room for, where that is less than it might be.
    pub(crate) fn answer_bound(&self) -> Option<u64> {
        self.plan.answer_bound(self.reservation())
    }

    /// How long the call may take.
    pub(crate) fn model_ms(&self) -> u64 {
        self.reservation().amount().model_ms
    }

    /// The call goes beyond what it reserved, whatever it was told: it is ended.
    pub(crate) fn is_overdrawn(&self) -> bool {
        // A token seldom has more than eight bytes: this is sure to be too much.
        self.answer_bound().is_some_and(|bound| self.answer_bytes / 8 > bound)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(reservation) = self.reservation.take() else { return };
        let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let used = self.plan.used(self.usage, self.answer_bytes, ms);
        self.budgets.book.lock().settle(reservation, used);
        self.budgets.settled.notify_waiters();
    }
}

/// What a stored run and its children have used of each kind.
pub(crate) async fn spent_by(store: &dyn Store, run_id: &RunId, events: &[Event]) -> Result<Amount> {
    let mut spent = budget::spent_by(events);
    let mut filter = RunFilter::default();
    filter.parent = Some(run_id.clone());
    filter.limit = Some(u32::MAX);
    for child in store.runs(&filter).await? {
        let mut events = Vec::new();
        loop {
            let page = store.events(&child.run_id, events.last().map_or(0, |event: &Event| event.seq), 1_000).await?;
            if page.is_empty() {
                break;
            }
            events.extend(page);
        }
        let more = Box::pin(spent_by(store, &child.run_id, &events)).await?;
        spent = spent.plus(more);
    }
    Ok(spent)
}
