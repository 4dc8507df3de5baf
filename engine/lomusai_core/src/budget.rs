//! Budgets: what may be used is reserved before a model call and settled after it, so that calls at the same time never use the same
//! tokens, dollars, calls or milliseconds twice.
//!
//! The rules, for each bound of each budget that a call draws on. *Left* is the bound less what was spent and what others hold reserved.
//! A call says the *most* it may take and the *least* that makes it worth while.
//! 1. Its most is left: it is reserved.
//! 2. Less is left, and others hold reservations: the call waits until one of them is settled.
//! 3. Less is left, and it is alone: it reserves what is left, if that is at least its least, and its answer is bounded by that.
//! 4. Else the budget is exhausted.
//!
//! The most of a call is a generous estimate of its input and the longest answer it may give: `max_output_tokens` where that is set,
//! else the longest answer of the model. Where neither is known it is everything: such a call runs alone, bounded by what is left. So a budget is
//! overspent, if at all, by what a single call took beyond its reservation.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use lomusai_wire::{
    Budget, EffectKind, Event, EventBody, ModelInfo, ModelRequest, Part, Price, ToolResult, Usage, codes,
};

use crate::Error;

/// What was, or may be, used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Amount {
    /// Tokens of all kinds.
    pub tokens: u64,
    /// Nano-dollars.
    pub nano_usd: u64,
    /// Model calls.
    pub calls: u64,
    /// Milliseconds spent in them.
    pub model_ms: u64,
}

impl Amount {
    /// So much of each.
    pub fn new(tokens: u64, nano_usd: u64, calls: u64, model_ms: u64) -> Self {
        Self { tokens, nano_usd, calls, model_ms }
    }

    fn zip(self, other: Self, f: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            tokens: f(self.tokens, other.tokens),
            nano_usd: f(self.nano_usd, other.nano_usd),
            calls: f(self.calls, other.calls),
            model_ms: f(self.model_ms, other.model_ms),
        }
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        self.zip(other, u64::saturating_add)
    }

    fn less(self, other: Self) -> Self {
        self.zip(other, u64::saturating_sub)
    }
}

/// What a call may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Need {
    /// The most.
    pub most: Amount,
    /// The least that makes it worth while.
    pub least: Amount,
}

impl Need {
    /// Between these.
    pub fn new(most: Amount, least: Amount) -> Self {
        Self { most, least }
    }
}

/// What a budget says to a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Go on, within this.
    Granted(Reservation),
    /// Others hold what it needs: ask again when one of them is settled.
    Wait,
    /// Never: this bound does not hold it.
    Exhausted(Exhausted),
}

/// What a call holds until it is settled. Give it to [`Book::settle`].
#[derive(Clone, Debug, PartialEq)]
#[must_use = "what is reserved stays reserved until it is settled"]
pub struct Reservation {
    keys: Vec<String>,
    amount: Amount,
    /// Whether less than its most was left.
    bounded: bool,
}

impl Reservation {
    /// What is reserved.
    pub fn amount(&self) -> Amount {
        self.amount
    }

    /// Whether less than the call's most was left, so that the call must be held to it.
    pub fn is_bounded(&self) -> bool {
        self.bounded
    }
}

/// The bound that does not hold a call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exhausted {
    /// The budget: `the run`, or the name of a shared one.
    pub budget: String,
    /// `tokens`, `cost_nano_usd`, `calls` or `model_ms`.
    pub bound: &'static str,
    /// What it is.
    pub limit: u64,
    /// What was used of it.
    pub spent: u64,
}

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { budget, bound, limit, spent } = self;
        write!(f, "the budget of {budget} does not hold another model call: {bound} is {limit}, {spent} are spent")
    }
}

impl From<Exhausted> for Error {
    fn from(why: Exhausted) -> Self {
        Self::new(codes::BUDGET_EXHAUSTED, format!("{why}; go on with the conversation under a larger budget"))
            .with("budget", why.budget)
            .with("bound", why.bound)
            .with("limit", why.limit)
            .with("spent", why.spent)
    }
}

#[derive(Clone, Debug)]
struct Ledger {
    name: String,
    limit: Budget,
    spent: Amount,
    reserved: Amount,
    /// Calls that hold a reservation.
    open: u64,
    /// Children whose use is counted here.
    children: BTreeSet<String>,
}

/// All budgets of an engine. Pure: whoever shares it brings the lock, and wakes those who wait when something was settled.
#[derive(Clone, Debug, Default)]
pub struct Book {
    ledgers: BTreeMap<String, Ledger>,
}

impl Book {
    /// Opens a budget under a key, with what was spent of it before. `name` is how errors call it. One of the same key is replaced.
    pub fn open(&mut self, key: &str, name: &str, limit: Budget, spent: Amount) {
        let (reserved, open) = self.ledgers.get(key).map_or_else(Default::default, |old| (old.reserved, old.open));
        let ledger = Ledger { name: name.into(), limit, spent, reserved, open, children: BTreeSet::new() };
        self.ledgers.insert(key.to_owned(), ledger);
    }

    /// Closes a budget. What is reserved of it is forgotten.
    pub fn close(&mut self, key: &str) {
        self.ledgers.remove(key);
    }

    /// Whether a budget is open.
    pub fn has(&self, key: &str) -> bool {
        self.ledgers.contains_key(key)
    }

    /// Counts what a child spent before, once per child.
    pub fn adopt(&mut self, key: &str, child: &str, spent: Amount) {
        if let Some(ledger) = self.ledgers.get_mut(key)
            && ledger.children.insert(child.to_owned())
        {
            ledger.spent = ledger.spent.plus(spent);
        }
    }

    /// What was spent of a budget, and what is reserved of it.
    pub fn used(&self, key: &str) -> Option<(Amount, Amount)> {
        self.ledgers.get(key).map(|ledger| (ledger.spent, ledger.reserved))
    }

    /// Whether any of these bounds money.
    pub fn bounds_money(&self, keys: &[String]) -> bool {
        keys.iter().filter_map(|key| self.ledgers.get(key)).any(|ledger| ledger.limit.cost_nano_usd.is_some())
    }

    /// Reserves what a call may take of each of these budgets, or of none. A key that is not open bounds nothing.
    pub fn reserve(&mut self, keys: &[String], need: Need) -> Verdict {
        let mut amount = need.most;
        let mut waits = false;
        for ledger in keys.iter().filter_map(|key| self.ledgers.get(key)) {
            match ledger.room(need) {
                Room::For(room) => amount = amount.zip(room, u64::min),
                Room::Later => waits = true,
                Room::Never(why) => return Verdict::Exhausted(why),
            }
        }
        if waits {
            return Verdict::Wait;
        }
        for key in keys {
            if let Some(ledger) = self.ledgers.get_mut(key) {
                ledger.reserved = ledger.reserved.plus(amount);
                ledger.open += 1;
            }
        }
        Verdict::Granted(Reservation { keys: keys.to_vec(), amount, bounded: amount != need.most })
    }

    /// Gives back what was reserved and counts what was used. Afterwards, wake those who wait.
    pub fn settle(&mut self, reservation: Reservation, used: Amount) {
        for key in &reservation.keys {
            if let Some(ledger) = self.ledgers.get_mut(key) {
                ledger.reserved = ledger.reserved.less(reservation.amount);
                ledger.open = ledger.open.saturating_sub(1);
                ledger.spent = ledger.spent.plus(used);
            }
        }
    }
}

enum Room {
    For(Amount),
    Later,
    Never(Exhausted),
}

impl Ledger {
    fn room(&self, need: Need) -> Room {
        type Of = fn(&mut Amount) -> &mut u64;
        let bounds: [(&'static str, Option<u64>, Of); 4] = [
            ("tokens", self.limit.tokens, |amount| &mut amount.tokens),
            ("cost_nano_usd", self.limit.cost_nano_usd, |amount| &mut amount.nano_usd),
            ("calls", self.limit.calls, |amount| &mut amount.calls),
            ("model_ms", self.limit.model_ms, |amount| &mut amount.model_ms),
        ];
        let Need { mut most, mut least } = need;
        let (mut spent, mut reserved) = (self.spent, self.reserved);
        let mut room = Amount::new(u64::MAX, u64::MAX, u64::MAX, u64::MAX);
        let mut later = false;
        for (bound, limit, of) in bounds {
            let Some(limit) = limit else { continue };
            let unspent = limit.saturating_sub(*of(&mut spent));
            if unspent == 0 || unspent < *of(&mut least) {
                // What is spent never comes back, whatever others give back.
                let (budget, spent) = (self.name.clone(), *of(&mut spent));
                return Room::Never(Exhausted { budget, bound, limit, spent });
            }
            let left = unspent.saturating_sub(*of(&mut reserved));
            if *of(&mut most) > left && self.open > 0 {
                later = true;
            }
            *of(&mut room) = left;
        }
        if later { Room::Later } else { Room::For(room) }
    }
}

/// How many tokens a request has, guessed from its size: nobody but the provider counts them exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Estimate {
    /// More than it has: a token for each two bytes of text, 5,000 for each image or file.
    pub most: u64,
    /// About what it has: a token for each four bytes of text, 250 for each image or file.
    pub typical: u64,
}

impl Estimate {
    /// The size of a request's input.
    pub fn of(request: &ModelRequest) -> Self {
        let (mut bytes, mut media) = (0_u64, 0_u64);
        for message in &request.messages {
            bytes += 16;
            message.parts.iter().for_each(|part| size(part, &mut bytes, &mut media));
        }
        for tool in &request.tools {
            bytes += (tool.name.len() + tool.description.len() + tool.input_schema.as_str().len()) as u64 + 16;
        }
        bytes += request.output.as_ref().map_or(0, |output| output.schema.as_str().len() as u64);
        Self { most: bytes.div_ceil(2) + media * 5_000, typical: bytes.div_ceil(4) + media * 250 }
    }

    /// What a call that told nothing of its usage took, guessed from what came of it.
    pub fn used(&self, answer_bytes: u64) -> Usage {
        Usage::new(self.typical, answer_bytes.div_ceil(4))
    }
}

fn size(part: &Part, bytes: &mut u64, media: &mut u64) {
    match part {
        Part::Text(text) => *bytes += text.len() as u64,
        Part::Image { .. } | Part::File { .. } => *media += 1,
        Part::ToolResult(ToolResult { output, content, .. }) => {
            *bytes += output.as_str().map_or_else(|| output.to_string().len(), str::len) as u64 + 16;
            content.iter().for_each(|part| size(part, bytes, media));
        }
        Part::Data { .. } => {}
        other => *bytes += serde_json::to_string(other).map_or(0, |json| json.len() as u64),
    }
}

/// The shortest answer that a budget leaves room for, in tokens: OpenAI takes no smaller bound, and less than this is of
/// no use to anybody. A bound that the caller set himself may be smaller.
/// Source: `max_output_tokens`, <https://platform.openai.com/docs/api-reference/responses/create>.
const LEAST_ANSWER: u64 = 16;

/// What one model call may take, and how its answer is bounded.
#[derive(Clone, Debug)]
pub struct Plan {
    estimate: Estimate,
    price: Option<Price>,
    need: Need,
    /// The smallest bound worth setting: [`LEAST_ANSWER`], or what the caller set where that is smaller.
    least_answer: u64,
}

impl Plan {
    /// Plans a call: its input by estimate, its answer by `settings.max_output_tokens`, else by what is known of the model, else by everything.
    pub fn new(request: &ModelRequest, model: Option<&ModelInfo>, timeout_ms: u64) -> Self {
        let estimate = Estimate::of(request);
        let longest =
            request.settings.max_output_tokens.map(u64::from).or_else(|| model.and_then(|model| model.output_tokens));
        let price = model.and_then(|model| model.price.clone());
        let cost = |usage: Usage| price.as_ref().map_or(0, |price| price.cost_nano_usd(&usage));
        let most = match longest {
            Some(longest) => {
                // Input may be written to a cache, which costs more than input.
                let mut written = Usage::new(0, longest);
                written.cache_write = estimate.most;
                let nano_usd = cost(Usage::new(estimate.most, longest)).max(cost(written));
                Amount::new(estimate.most.saturating_add(longest), nano_usd, 1, timeout_ms)
            }
            None => Amount::new(u64::MAX, u64::MAX, 1, timeout_ms),
        };
        let least_answer = longest.map_or(LEAST_ANSWER, |longest| longest.min(LEAST_ANSWER));
        let least = Amount::new(
            estimate.typical.saturating_add(least_answer),
            cost(Usage::new(estimate.typical, least_answer)),
            1,
            1,
        );
        Self { estimate, price, need: Need::new(most, least.zip(most, u64::min)), least_answer }
    }

    /// What it needs.
    pub fn need(&self) -> Need {
        self.need
    }

    /// Whether anybody knows what the model costs.
    pub fn has_price(&self) -> bool {
        self.price.is_some()
    }

    /// The longest answer that a reservation leaves room for. `None`: it does not bound the answer.
    pub fn answer_bound(&self, reservation: &Reservation) -> Option<u64> {
        if !reservation.bounded {
            return None;
        }
        let (amount, most) = (reservation.amount, self.need.most);
        let by_tokens = (amount.tokens < most.tokens).then(|| amount.tokens.saturating_sub(self.estimate.typical));
        let by_money = self.price.as_ref().filter(|_| amount.nano_usd < most.nano_usd).and_then(|price| {
            let left = amount.nano_usd.saturating_sub(price.cost_nano_usd(&Usage::new(self.estimate.typical, 0)));
            let each = price.output.max(price.reasoning.unwrap_or(0));
            (left as u128 * 1_000).checked_div(u128::from(each)).map(|tokens| u64::try_from(tokens).unwrap_or(u64::MAX))
        });
        by_tokens.into_iter().chain(by_money).min().map(|bound| bound.max(self.least_answer).max(1))
    }

    /// What a call took: what its provider counted, or an estimate where something came of it and nobody counted.
    pub fn used(&self, usage: Usage, answer_bytes: u64, model_ms: u64) -> Amount {
        let usage = if usage.is_empty() && answer_bytes > 0 { self.estimate.used(answer_bytes) } else { usage };
        let nano_usd = self.price.as_ref().map_or(0, |price| price.cost_nano_usd(&usage));
        Amount::new(usage.total(), nano_usd, 1, model_ms)
    }
}

/// What the model calls of a journal used, those of children left out: their own journals tell.
pub fn spent_by(events: &[Event]) -> Amount {
    let mut spent = Amount::default();
    let mut began: HashMap<&str, u64> = HashMap::new();
    for event in events {
        match &event.body {
            EventBody::EffectStarted { effect_id, kind: EffectKind::Model, .. } => {
                spent.calls += 1;
                began.insert(effect_id.as_str(), event.at_ms);
            }
            EventBody::EffectCompleted { effect_id, usage, cost_nano_usd, .. }
            | EventBody::EffectFailed { effect_id, usage, cost_nano_usd, .. } => {
                if let Some(at_ms) = began.remove(effect_id.as_str()) {
                    let ms = event.at_ms.saturating_sub(at_ms);
                    spent = spent.plus(Amount::new(usage.total(), cost_nano_usd.unwrap_or(0), 0, ms));
                }
            }
            _ => {}
        }
    }
    spent
}

#[cfg(test)]
mod tests {
    use super::*;
    use lomusai_wire::Message;
    use std::sync::Arc;

    fn tokens(most: u64, least: u64) -> Need {
        Need::new(Amount::new(most, 0, 1, 0), Amount::new(least, 0, 1, 0))
    }

    fn book(limit: u64) -> (Book, Vec<String>) {
        let mut book = Book::default();
        book.open("a", "run `a`", Budget::tokens(limit), Amount::default());
        (book, vec!["a".into()])
    }

    fn granted(verdict: Verdict) -> Reservation {
        match verdict {
            Verdict::Granted(reservation) => reservation,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_reserved_is_not_there_for_others() {
        let (mut book, keys) = book(100);
        let first = granted(book.reserve(&keys, tokens(60, 1)));
        assert_eq!(book.reserve(&keys, tokens(60, 1)), Verdict::Wait);
        let second = granted(book.reserve(&keys, tokens(40, 1)));
        book.settle(first, Amount::new(10, 0, 1, 0));
        book.settle(second, Amount::new(40, 0, 1, 0));
        let third = granted(book.reserve(&keys, tokens(60, 1)));
        assert_eq!((third.amount().tokens, third.is_bounded()), (50, true), "alone: what is left");
        book.settle(third, Amount::new(50, 0, 1, 0));
        let Verdict::Exhausted(why) = book.reserve(&keys, tokens(1, 1)) else { panic!("it is spent") };
        assert_eq!((why.bound, why.limit, why.spent), ("tokens", 100, 100));
    }

    #[test]
    fn a_call_that_may_take_everything_is_alone() {
        let (mut book, keys) = book(100);
        let all = granted(book.reserve(&keys, tokens(u64::MAX, 1)));
        assert_eq!((all.amount().tokens, all.is_bounded()), (100, true));
        assert_eq!(book.reserve(&keys, tokens(1, 1)), Verdict::Wait);
        book.settle(all, Amount::default());
        let one = granted(book.reserve(&keys, tokens(1, 1)));
        assert_eq!(book.reserve(&keys, tokens(u64::MAX, 1)), Verdict::Wait);
        book.settle(one, Amount::default());
    }

    #[test]
    fn a_call_draws_on_all_of_its_budgets_or_on_none() {
        let (mut book, _) = book(100);
        book.open("b", "`team`", Budget::tokens(50), Amount::new(20, 0, 0, 0));
        let both: Vec<String> = vec!["a".into(), "b".into(), "not open".into()];
        let held = granted(book.reserve(&both, tokens(80, 1)));
        assert_eq!(held.amount().tokens, 30, "what is left in the smaller one");
        assert_eq!(book.reserve(&both[..1], tokens(80, 1)), Verdict::Wait);
        book.settle(held, Amount::new(30, 0, 1, 0));
        assert_eq!(book.used("a").unwrap().0.tokens, 30);
        let Verdict::Exhausted(why) = book.reserve(&both, tokens(1, 1)) else { panic!("the team has none") };
        assert_eq!(why.budget, "`team`");
        assert_eq!(book.used("a").unwrap().1, Amount::default(), "nothing stays reserved");
    }

    #[test]
    fn a_child_is_counted_once() {
        let (mut book, _) = book(100);
        book.adopt("a", "a/1.0", Amount::new(30, 0, 1, 0));
        book.adopt("a", "a/1.0", Amount::new(30, 0, 1, 0));
        assert_eq!(book.used("a").unwrap().0.tokens, 30);
    }

    #[test]
    fn a_plan_bounds_the_answer_by_what_is_left() {
        let mut request = ModelRequest::default();
        request.messages = vec![Arc::new(Message::user("x".repeat(400)))];
        let plan = Plan::new(&request, None, 1_000);
        assert_eq!(plan.need().most.tokens, u64::MAX, "nothing says how long the answer may be");
        let (mut book, keys) = book(1_000);
        let held = granted(book.reserve(&keys, plan.need()));
        assert_eq!(plan.answer_bound(&held), Some(1_000 - 104));
        book.settle(held, plan.used(Usage::default(), 40, 5));
        assert_eq!(book.used("a").unwrap().0, Amount::new(114, 0, 1, 5), "nobody counted: about four bytes a token");

        request.settings.max_output_tokens = Some(50);
        let plan = Plan::new(&request, None, 1_000);
        assert_eq!(plan.need().most.tokens, 208 + 50);
        let held = granted(book.reserve(&keys, plan.need()));
        assert_eq!(plan.answer_bound(&held), None);
        book.settle(held, Amount::default());
    }

    #[test]
    fn money_bounds_the_answer_too() {
        let mut request = ModelRequest::default();
        request.messages = vec![Arc::new(Message::user("x".repeat(384)))];
        let mut info = ModelInfo::new("p", "m");
        info.price = Some(Price::new(1_000_000, 10_000_000));
        info.output_tokens = Some(8_000);
        let plan = Plan::new(&request, Some(&info), 1_000);
        let mut book = Book::default();
        // 100 tokens in cost 100,000, each token out 10,000.
        let mut budget = Budget::default();
        budget.cost_nano_usd = Some(300_000);
        book.open("a", "run `a`", budget, Amount::default());
        let keys = vec!["a".to_owned()];
        assert!(book.bounds_money(&keys));
        let held = granted(book.reserve(&keys, plan.need()));
        assert_eq!(plan.answer_bound(&held), Some(20));
        book.settle(held, plan.used(Usage::new(100, 20), 80, 0));
        assert!(matches!(book.reserve(&keys, plan.need()), Verdict::Exhausted(why) if why.bound == "cost_nano_usd"));
    }
}
