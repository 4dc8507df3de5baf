//! Schedules: runs that begin by themselves, at times of a calendar or at an interval. They are kept in the store; each time that comes due
//! begins one run, whoever of the engines on the store gets to it first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cronexpr::{Crontab, FallbackTimezoneOption, MakeTimestamp, ParseOptions};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use lomusai_core::agent::check_name;
use lomusai_core::storage::Batch;
use lomusai_core::{Error, Result};
use lomusai_wire::{ErrorBody, LogLevel, RunId, StartRequest, WorkflowRequest, codes};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::Engine;
use crate::inner::Inner;
use crate::run::RunRequest;

/// Where schedules are in the store.
const SPACE: &str = "schedules";
/// How often due schedules are looked for in any case.
const LOOK: Duration = Duration::from_secs(1);
/// How often all of them are read again: other processes change them, too.
const READ_AGAIN_MS: u64 = 10_000;

/// How often runs that are kept no longer are removed.
const TIDY_MS: u64 = 600_000;

/// When runs begin by themselves, and which.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Schedule {
    /// Its name: letters, digits, `_`, `-` and `.`, at most 64. Putting another of the same name replaces it.
    pub name: String,
    /// Times of the calendar: `minute hour day month weekday`, as Vixie cron reads it; names of months and days, `L`, `W`, `#`, and `@daily` and
    /// the like are understood.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// In place of `cron`: every so many milliseconds, counted from `from_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_ms: Option<u64>,
    /// Where the calendar hangs: a name of the IANA database, such as `Europe/Berlin`. Default UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// What runs: a [`StartRequest`] or a [`WorkflowRequest`], without a `run_id`.
    pub request: Value,
    /// What becomes of times at which no engine was there.
    #[serde(default, skip_serializing_if = "is_default")]
    pub missed: Missed,
    /// So much later than its time may a run begin before that counts as missed, in milliseconds. Default 60,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
    /// Not before this time, in milliseconds since 1970. Default: when it was put.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_ms: Option<u64>,
    /// Not at this time or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
    /// Whether it begins nothing for now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What becomes of times that were missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Missed {
    /// Nothing.
    Skip,
    /// One run for all of them, that of the last.
    #[default]
    Once,
    /// A run for each.
    All,
}

/// A schedule and where it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ScheduleState {
    /// The schedule.
    #[serde(flatten)]
    pub schedule: Schedule,
    /// When it is due next. Absent where it never is again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_ms: Option<u64>,
    /// The time for which it last began a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_ms: Option<u64>,
    /// That run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run: Option<RunId>,
    /// Why the last run could not begin, where it could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<ErrorBody>,
}

impl Schedule {
    /// A schedule of this name for this request, with its times still to be said.
    pub fn new(name: impl Into<String>, request: Value) -> Self {
        Self {
            name: name.into(),
            cron: None,
            every_ms: None,
            timezone: None,
            request,
            missed: Missed::default(),
            grace_ms: None,
            from_ms: None,
            until_ms: None,
            paused: false,
        }
    }

    fn invalid(&self, why: impl std::fmt::Display) -> Error {
        Error::new(codes::SCHEDULE_INVALID, format!("schedule `{}`: {why}", self.name))
            .with("schedule", self.name.as_str())
    }

    /// Checks it whole.
    fn times(&self) -> Result<Times> {
        check_name("schedule", &self.name)?;
        match (&self.cron, self.every_ms) {
            (Some(pattern), None) => {
                let name = self.timezone.as_deref().unwrap_or("UTC");
                let zone = TimeZone::get(name).map_err(|_| {
                    self.invalid(format_args!(
                        "`{name}` is no time zone: take a name of the IANA database, such as Europe/Berlin"
                    ))
                })?;
                Calendar::new(pattern, name, zone).map(Times::Calendar).map_err(|why| {
                    self.invalid(format_args!(
                        "`{pattern}` is no cron pattern: write minute hour day month weekday ({why})"
                    ))
                })
            }
            (None, Some(0)) => Err(self.invalid("`every_ms` must be at least 1")),
            (None, Some(_)) if self.timezone.is_some() => {
                Err(self.invalid("an interval has no time zone: give `cron`, or leave `timezone` out"))
            }
            (None, Some(every)) => Ok(Times::Interval(every, self.from_ms.unwrap_or(0))),
            _ => Err(self.invalid("give `cron` or `every_ms`, one of them")),
        }
    }

    fn request(&self, slot_ms: u64) -> Result<RunRequest> {
        let id: RunId = format!("schedule:{}:{slot_ms}", self.name).into();
        let place = json!({"name": self.name, "slot_ms": slot_ms});
        let wrong = |e: serde_json::Error| self.invalid(format_args!("its request cannot be read: {e}"));
        let named = |given: &Option<RunId>| match given {
            Some(_) => Err(self.invalid("its request has a `run_id`: each run gets its own")),
            None => Ok(Some(id.clone())),
        };
        if self.request.get("workflow").is_some() {
            let mut request = WorkflowRequest::deserialize(&self.request).map_err(wrong)?;
            (request.run_id, request.detached) = (named(&request.run_id)?, true);
            request.context.insert("schedule".into(), place);
            request.metadata.insert("schedule".into(), self.name.as_str().into());
            return Ok(request.into());
        }
        let mut request = StartRequest::deserialize(&self.request).map_err(wrong)?;
        (request.run_id, request.detached) = (named(&request.run_id)?, true);
        request.context.insert("schedule".into(), place);
        request.metadata.insert("schedule".into(), self.name.as_str().into());
        Ok(request.into())
    }
}

enum Times {
    Calendar(Calendar),
    Interval(u64, u64),
}

impl Times {
    /// The first time after this one.
    fn after(&self, ms: u64) -> Option<u64> {
        match self {
            Self::Calendar(calendar) => calendar.after(ms),
            Self::Interval(every, from) => match ms.checked_sub(*from) {
                Some(past) => from.checked_add((past / every + 1).checked_mul(*every)?),
                None => Some(*from),
            },
        }
    }

    /// The last time at or before this one, of those from `first` on, which is one of them.
    fn last(&self, first: u64, ms: u64) -> u64 {
        match self {
            Self::Calendar(calendar) => calendar.last(first, ms),
            Self::Interval(every, _) => first + (ms.saturating_sub(first) / every) * every,
        }
    }
}

/// A pattern of cron in a time zone.
struct Calendar {
    /// The pattern as the zone's clock shows it, the clock taken for one that never jumps.
    civil: Crontab,
    /// The pattern as time passes there, for those that name no hour: they go on through every hour that there is.
    passing: Option<Crontab>,
    zone: TimeZone,
}

/// Names for patterns.
const ALIASES: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

impl Calendar {
    fn new(pattern: &str, name: &str, zone: TimeZone) -> Result<Self, String> {
        let alias = ALIASES.iter().find(|(alias, _)| *alias == pattern.trim());
        let pattern = alias.map_or(pattern, |(_, pattern)| pattern);
        let fields: Vec<&str> = pattern.split_whitespace().collect();
        if fields.len() != 5 {
            return Err(format!("it has {} fields, not 5", fields.len()));
        }
        let mut options = ParseOptions::default();
        options.fallback_timezone_option = FallbackTimezoneOption::UTC;
        let read = |text: &str| cronexpr::parse_crontab_with(text, options).map_err(|e| e.to_string());
        let pattern = fields.join(" ");
        let passes = fields[0].starts_with('*') || fields[1].starts_with('*');
        let passing = passes.then(|| read(&format!("{pattern} {name}"))).transpose()?;
        Ok(Self { civil: read(&pattern)?, passing, zone })
    }

    /// The first time after this one. A fixed time that the clock leaves out comes as much later as it leaves out; one that it shows twice
    /// comes the first time.
    fn after(&self, ms: u64) -> Option<u64> {
        let now = timestamp(ms)?;
        if let Some(passing) = &self.passing {
            return millis(passing.find_next(MakeTimestamp(now)).ok()?.timestamp());
        }
        let mut civil = TimeZone::UTC.to_timestamp(self.zone.to_datetime(now)).ok()?;
        loop {
            civil = self.civil.find_next(MakeTimestamp(civil)).ok()?.timestamp();
            let shown = TimeZone::UTC.to_datetime(civil);
            let time = millis(self.zone.to_ambiguous_timestamp(shown).compatible().ok()?)?;
            if time > ms {
                return Some(time);
            }
        }
    }

    fn last(&self, first: u64, ms: u64) -> u64 {
        // Back by twice as much each time, until there is one; then forward.
        let (mut back, mut found) = (60_000, first);
        while ms.saturating_sub(back) > first {
            if let Some(time) = self.after(ms - back).filter(|time| *time <= ms) {
                found = time;
                break;
            }
            back *= 2;
        }
        while let Some(next) = self.after(found).filter(|next| *next <= ms) {
            found = next;
        }
        found
    }
}

fn timestamp(ms: u64) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()
}

fn millis(time: Timestamp) -> Option<u64> {
    u64::try_from(time.as_millisecond()).ok()
}

impl ScheduleState {
    /// What is to begin now, and what the schedule is after that. `None` where nothing is due.
    fn due(&self, times: &Times, now_ms: u64) -> Option<(Option<u64>, Self)> {
        let schedule = &self.schedule;
        let first = self.next_ms.filter(|next| !schedule.paused && *next <= now_ms)?;
        let ended = |ms: &u64| schedule.until_ms.is_none_or(|until| *ms < until);
        let until = schedule.until_ms.map_or(u64::MAX, |until| until.saturating_sub(1));
        let last = times.last(first, now_ms.min(until)).max(first);
        let (slot, from) = match schedule.missed {
            Missed::All => (Some(first), first),
            Missed::Once => (Some(last), last),
            Missed::Skip => {
                let in_time = now_ms - last <= schedule.grace_ms.unwrap_or(60_000);
                (in_time.then_some(last), last)
            }
        };
        let mut then = self.clone();
        then.next_ms = times.after(from).filter(ended);
        if let Some(slot) = slot {
            then.last_ms = Some(slot);
            then.last_run = Some(format!("schedule:{}:{slot}", schedule.name).into());
            then.last_error = None;
        }
        Some((slot, then))
    }
}

impl Engine {
    /// Puts a schedule into the store, in place of one of the same name. It begins runs where an engine on the store has been
    /// [started](Engine::start).
    ///
    /// # Errors
    /// `schedule_invalid`, `name_invalid`; `value_conflict` where it was changed at the same time.
    pub async fn put_schedule(&self, schedule: Schedule) -> Result<ScheduleState> {
        self.0.open()?;
        let times = schedule.times()?;
        let now_ms = self.0.clock.now_ms();
        schedule.request(now_ms)?;
        let known = self.0.schedule(&schedule.name).await?;
        let asked_from = schedule.from_ms;
        let mut state = ScheduleState { schedule, next_ms: None, last_ms: None, last_run: None, last_error: None };
        if state.schedule.every_ms.is_some() && state.schedule.from_ms.is_none() {
            state.schedule.from_ms = Some(now_ms);
        }
        let times = if state.schedule.every_ms.is_some() { state.schedule.times()? } else { times };
        // A time that has begun a run begins no second one, also under another pattern.
        let done = known.as_ref().and_then(|known| known.last_ms);
        let from = asked_from.map_or(now_ms, |from| from.max(now_ms).saturating_sub(1)).max(done.unwrap_or(0));
        state.next_ms = times.after(from).filter(|ms| state.schedule.until_ms.is_none_or(|until| *ms < until));
        if state.next_ms.is_none() {
            return Err(state.schedule.invalid("it never comes due: look at its pattern and its `until_ms`"));
        }
        if let Some(known) = &known {
            (state.last_ms, state.last_run) = (known.last_ms, known.last_run.clone());
        }
        self.0.write_schedule(known.as_ref(), Some(&state)).await?;
        Ok(state)
    }

    /// The schedules of the store, by name.
    ///
    /// # Errors
    /// Storage errors.
    pub async fn schedules(&self) -> Result<Vec<ScheduleState>> {
        self.0.open()?;
        let mut all = Vec::new();
        for name in self.0.store.keys(SPACE, "").await? {
            all.extend(self.0.schedule(&name).await?);
        }
        Ok(all)
    }

    /// Lets a schedule rest, or go on. Times at which it rested are not made up for.
    ///
    /// # Errors
    /// `schedule_unknown`; `value_conflict` where it was changed at the same time.
    pub async fn pause_schedule(&self, name: &str, paused: bool) -> Result<ScheduleState> {
        self.0.open()?;
        let known = self.0.schedule(name).await?.ok_or_else(|| unknown(name))?;
        let mut state = known.clone();
        state.schedule.paused = paused;
        if known.schedule.paused && !paused {
            let from = self.0.clock.now_ms().max(known.last_ms.unwrap_or(0));
            let next = state.schedule.times()?.after(from);
            state.next_ms = next.filter(|ms| state.schedule.until_ms.is_none_or(|until| *ms < until));
        }
        self.0.write_schedule(Some(&known), Some(&state)).await?;
        Ok(state)
    }

    /// Takes a schedule out of the store. Its runs stay. `false` if there was none.
    ///
    /// # Errors
    /// `value_conflict` where it was changed at the same time.
    pub async fn delete_schedule(&self, name: &str) -> Result<bool> {
        self.0.open()?;
        let Some(known) = self.0.schedule(name).await? else { return Ok(false) };
        self.0.write_schedule(Some(&known), None).await?;
        Ok(true)
    }

    /// Begins the runs that are due now, and says which. An engine that was started does this by itself.
    ///
    /// # Errors
    /// Storage errors. A run that cannot begin is the schedule's `last_error`.
    pub async fn fire_due(&self) -> Result<Vec<RunId>> {
        self.0.open()?;
        let mut begun = Vec::new();
        for name in self.0.store.keys(SPACE, "").await? {
            begun.extend(self.0.fire(&name).await?.0);
        }
        Ok(begun)
    }
}

impl Inner {
    async fn schedule(&self, name: &str) -> Result<Option<ScheduleState>> {
        let corrupt = |e: serde_json::Error| {
            Error::new(codes::STORE_CORRUPT, format!("schedule `{name}` cannot be read from the store: {e}"))
        };
        let found = self.store.get(SPACE, name).await?;
        found.map(|value| serde_json::from_value(value).map_err(corrupt)).transpose()
    }

    /// Writes a schedule if it still is what it was.
    async fn write_schedule(&self, was: Option<&ScheduleState>, is: Option<&ScheduleState>) -> Result<()> {
        let name = was.or(is).map(|state| state.schedule.name.clone()).unwrap_or_default();
        self.store.commit(change(&name, was, is)).await?;
        self.rescheduled.notify_one();
        Ok(())
    }

    /// Begins what is due of a schedule. Gives the runs, and when it is due next.
    async fn fire(self: &Arc<Self>, name: &str) -> Result<(Vec<RunId>, Option<u64>)> {
        let mut begun = Vec::new();
        while let Some(state) = self.schedule(name).await? {
            let times = state.schedule.times()?;
            let Some((slot, then)) = state.due(&times, self.clock.now_ms()) else {
                return Ok((begun, state.next_ms.filter(|_| !state.schedule.paused)));
            };
            let fired = match slot {
                Some(slot) => self.begin_slot(&state, &then, slot).await,
                None => self.store.commit(change(name, Some(&state), Some(&then))).await,
            };
            match fired {
                Ok(()) => begun.extend(then.last_run.filter(|_| slot.is_some())),
                // Another engine was faster, or somebody changed it: look again.
                Err(error) if error.is(codes::VALUE_CONFLICT) => {}
                Err(error) if error.is(codes::ENGINE_CLOSED) => return Err(error),
                Err(error) => {
                    self.log(LogLevel::Warn, &format!("schedule `{name}` could not begin its run: {error}"));
                    let mut failed = then.clone();
                    (failed.last_error, failed.last_run) = (Some(error.body().clone()), state.last_run.clone());
                    match self.store.commit(change(name, Some(&state), Some(&failed))).await {
                        Err(error) if !error.is(codes::VALUE_CONFLICT) => return Err(error),
                        _ => {}
                    }
                }
            }
        }
        Ok((begun, None))
    }

    /// Begins the run of one time. That it has begun and that the time is done are one commit: so there is just one, whoever else tries.
    async fn begin_slot(self: &Arc<Self>, state: &ScheduleState, then: &ScheduleState, slot: u64) -> Result<()> {
        let mut request = state.schedule.request(slot)?;
        if let RunRequest::Agent(request) = &mut request {
            // Others wait behind it.
            request.on_busy = lomusai_wire::OnBusy::Error;
        }
        let (begun, begins) = oneshot::channel();
        let with = change(&state.schedule.name, Some(state), Some(then));
        self.spawn_with(request, None, None, None, Some(begun), with)?;
        begins.await.unwrap_or_else(|_| Err(crate::inner::closed()))
    }

    /// Begins runs as they come due, until the engine is closed.
    pub(crate) fn keep_schedules(self: &Arc<Self>) {
        if self.scheduling.swap(true, Ordering::AcqRel) {
            return;
        }
        let weak = Arc::downgrade(self);
        self.threads.spawn(async move {
            let mut next: BTreeMap<String, Option<u64>> = BTreeMap::new();
            let (mut read_ms, mut tidied_ms): (Option<u64>, Option<u64>) = (None, None);
            // The clock may be set back.
            let is_over = |at: Option<u64>, span: u64, now: u64| at.is_none_or(|at| now >= at + span || now < at);
            while let Some(inner) = weak.upgrade() {
                if inner.closed.load(Ordering::Acquire) {
                    return;
                }
                let now_ms = inner.clock.now_ms();
                if is_over(tidied_ms, TIDY_MS, now_ms) {
                    tidied_ms = Some(now_ms);
                    Engine(inner.clone()).tidy().await;
                }
                if is_over(read_ms, READ_AGAIN_MS, now_ms) {
                    read_ms = Some(now_ms);
                    match inner.store.keys(SPACE, "").await {
                        Ok(names) => next = names.into_iter().map(|name| (name, Some(0))).collect(),
                        Err(error) => inner.log(LogLevel::Warn, &format!("schedules cannot be read: {error}")),
                    }
                }
                let due: Vec<String> = next
                    .iter()
                    .filter(|(_, at)| at.is_some_and(|at| at <= now_ms))
                    .map(|(name, _)| name.clone())
                    .collect();
                for name in due {
                    match inner.fire(&name).await {
                        Ok((_, at)) => drop(next.insert(name, at)),
                        Err(error) => {
                            inner.log(LogLevel::Warn, &format!("schedule `{name}` cannot be looked at: {error}"));
                            next.insert(name, Some(now_ms + READ_AGAIN_MS));
                        }
                    }
                }
                let first = next.values().flatten().min().copied().unwrap_or(u64::MAX);
                let wait = Duration::from_millis(first.saturating_sub(inner.clock.now_ms())).min(LOOK);
                let changed = inner.rescheduled.notified();
                tokio::pin!(changed);
                if tokio::time::timeout(wait, changed).await.is_ok() {
                    read_ms = None;
                }
            }
        });
    }
}

/// A schedule's new state, under the condition that it still has the old one.
fn change(name: &str, was: Option<&ScheduleState>, is: Option<&ScheduleState>) -> Batch {
    let value = |state: Option<&ScheduleState>| state.map(|state| json!(state));
    let mut batch = Batch::default();
    batch.expected.push((SPACE.into(), name.into(), value(was)));
    batch.values.push((SPACE.into(), name.into(), value(is)));
    batch
}

fn unknown(name: &str) -> Error {
    Error::new(codes::SCHEDULE_UNKNOWN, format!("no schedule `{name}` is in the store: see which there are, or put it"))
        .with("schedule", name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> u64 {
        text.parse::<Timestamp>().unwrap().as_millisecond() as u64
    }

    fn calendar(cron: &str, zone: &str) -> Schedule {
        let mut schedule = Schedule::new("s", json!({"workflow": "w"}));
        (schedule.cron, schedule.timezone) = (Some(cron.into()), Some(zone.into()));
        schedule
    }

    #[test]
    fn times_hang_on_the_zone_s_clock_through_summer_and_winter() {
        let times = calendar("30 9 * * MON-FRI", "Europe/Berlin").times().unwrap();
        assert_eq!(times.after(ms("2026-03-27T09:00:00Z")), Some(ms("2026-03-30T07:30:00Z")));
        assert_eq!(times.after(ms("2026-03-26T09:00:00Z")), Some(ms("2026-03-27T08:30:00Z")));
        let first = ms("2026-01-01T08:30:00Z");
        assert_eq!(times.last(first, ms("2026-03-29T09:00:00Z")), ms("2026-03-27T08:30:00Z"));
        assert_eq!(times.last(first, first), first);
    }

    #[test]
    fn a_time_that_the_clock_leaves_out_comes_later_and_one_that_it_shows_twice_comes_once() {
        let times = calendar("30 2 * * *", "Europe/Berlin").times().unwrap();
        assert_eq!(times.after(ms("2026-03-28T12:00:00Z")), Some(ms("2026-03-29T01:30:00Z")));
        let first = times.after(ms("2026-10-24T12:00:00Z")).unwrap();
        assert_eq!(first, ms("2026-10-25T00:30:00Z"));
        assert_eq!(times.after(first), Some(ms("2026-10-26T01:30:00Z")));
    }

    #[test]
    fn what_names_no_hour_goes_on_through_every_hour_that_there_is() {
        let times = calendar("30 * * * *", "Europe/Berlin").times().unwrap();
        let mut at = ms("2026-10-24T23:45:00Z");
        for hour in 0..4 {
            at = times.after(at).unwrap();
            assert_eq!(at, ms(&format!("2026-10-25T0{hour}:30:00Z")));
        }
        assert_eq!(calendar("@daily", "UTC").times().unwrap().after(0), Some(86_400_000));
    }

    #[test]
    fn intervals_count_from_their_beginning() {
        let mut schedule = Schedule::new("s", json!({"workflow": "w"}));
        (schedule.every_ms, schedule.from_ms) = (Some(100), Some(1_050));
        let times = schedule.times().unwrap();
        assert_eq!([times.after(0), times.after(1_050), times.after(1_149)], [Some(1_050), Some(1_150), Some(1_150)]);
        assert_eq!(
            [times.last(1_050, 1_050), times.last(1_050, 1_149), times.last(1_050, 1_150)],
            [1_050, 1_050, 1_150]
        );
    }

    fn due(missed: Missed, next: u64, now: u64) -> (Option<u64>, Option<u64>) {
        let mut schedule = Schedule::new("s", json!({"workflow": "w"}));
        (schedule.every_ms, schedule.from_ms, schedule.missed, schedule.grace_ms) =
            (Some(100), Some(0), missed, Some(20));
        let times = schedule.times().unwrap();
        let state = ScheduleState { schedule, next_ms: Some(next), last_ms: None, last_run: None, last_error: None };
        state.due(&times, now).map_or((None, None), |(slot, then)| (slot, then.next_ms))
    }

    #[test]
    fn missed_times_are_made_up_for_as_asked() {
        assert_eq!(due(Missed::Once, 100, 99), (None, None));
        assert_eq!(due(Missed::Once, 100, 430), (Some(400), Some(500)));
        assert_eq!(due(Missed::All, 100, 430), (Some(100), Some(200)));
        assert_eq!(due(Missed::Skip, 100, 430), (None, Some(500)));
        assert_eq!(due(Missed::Skip, 100, 410), (Some(400), Some(500)));
    }

    #[test]
    fn what_cannot_be_read_is_refused_and_named() {
        let code = |schedule: &Schedule| schedule.times().err().map(|error| error.code().to_owned());
        assert_eq!(code(&calendar("0 9 * * 1 UTC", "UTC")).as_deref(), Some("schedule_invalid"));
        assert_eq!(code(&calendar("61 * * * *", "UTC")).as_deref(), Some("schedule_invalid"));
        assert_eq!(code(&calendar("* * * * *", "Mars/Olympus")).as_deref(), Some("schedule_invalid"));
        assert_eq!(code(&Schedule::new("s", json!({}))).as_deref(), Some("schedule_invalid"));
        assert_eq!(code(&Schedule::new("a b", json!({}))).as_deref(), Some("name_invalid"));
    }
}
