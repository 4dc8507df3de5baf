//! A workflow as a picture: Mermaid for documents, SVG for everything else. Where a run is given, each step has the colour of where it stands.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use lomusai_wire::{Action, Condition, EffectId, Event, EventBody, Mapping, StepSpec, WorkflowSpec};

/// Where a step of a run stands. Of a step that runs many times, the most urgent of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum StepStatus {
    /// Its condition did not hold, or steps it needs were skipped.
    Skipped,
    /// It gave something.
    Completed,
    /// It is under way.
    Running,
    /// It waits for somebody, or for a time.
    Waiting,
    /// It failed for good.
    Failed,
}

impl StepStatus {
    const ALL: [Self; 5] = [Self::Skipped, Self::Completed, Self::Running, Self::Waiting, Self::Failed];

    fn name(self) -> &'static str {
        match self {
            Self::Skipped => "skipped",
            Self::Completed => "completed",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Failed => "failed",
        }
    }

    /// Fill and line.
    fn colours(self) -> (&'static str, &'static str) {
        match self {
            Self::Skipped => ("#f3f4f6", "#9ca3af"),
            Self::Completed => ("#dcfce7", "#15803d"),
            Self::Running => ("#dbeafe", "#1d4ed8"),
            Self::Waiting => ("#fef3c7", "#b45309"),
            Self::Failed => ("#fee2e2", "#b91c1c"),
        }
    }
}

/// Where the steps of a run stand, by their ids.
pub fn statuses(events: &[Event]) -> BTreeMap<String, StepStatus> {
    let mut effects: BTreeMap<&EffectId, StepStatus> = BTreeMap::new();
    for event in events {
        let Some(id) = event.body.effect_id() else { continue };
        let status = match &event.body {
            EventBody::EffectStarted { due_at_ms: Some(_), .. } | EventBody::EffectSuspended { .. } => {
                StepStatus::Waiting
            }
            EventBody::EffectFailed { retry_at_ms: Some(_), .. } => StepStatus::Waiting,
            EventBody::EffectStarted { .. } => StepStatus::Running,
            EventBody::EffectCompleted { .. } => StepStatus::Completed,
            EventBody::EffectFailed { .. } => StepStatus::Failed,
            EventBody::EffectSkipped { .. } => StepStatus::Skipped,
            _ => continue,
        };
        effects.insert(id, status);
    }
    let mut steps: BTreeMap<String, StepStatus> = BTreeMap::new();
    for (id, status) in effects {
        // A condition is not the step; a place in a group is not a name.
        let name = id.as_str().rsplit('.').next().unwrap_or_default();
        if !["when", "while", "until"].contains(&name) {
            let known = steps.entry(name.to_owned()).or_insert(status);
            *known = (*known).max(status);
        }
    }
    steps
}

/// The workflow as a Mermaid flowchart.
pub fn mermaid(spec: &WorkflowSpec, statuses: &BTreeMap<String, StepStatus>) -> String {
    let mut text = String::from("flowchart TD\n");
    let mut names = HashMap::new();
    mermaid_steps(&spec.steps, 1, &mut names, statuses, &mut text);
    for status in StepStatus::ALL.into_iter().filter(|status| statuses.values().any(|found| found == status)) {
        let (fill, line) = status.colours();
        let dashes = if status == StepStatus::Skipped { ",stroke-dasharray:4" } else { "" };
        let _ = writeln!(text, "  classDef {} fill:{fill},stroke:{line},color:#111827{dashes}", status.name());
    }
    text
}

fn mermaid_steps<'a>(
    steps: &'a [StepSpec],
    depth: usize,
    names: &mut HashMap<&'a str, String>,
    statuses: &BTreeMap<String, StepStatus>,
    text: &mut String,
) {
    let indent = "  ".repeat(depth);
    for step in steps {
        // Ids of steps may be words of Mermaid's own, such as `end`.
        let name = format!("s{}", names.len());
        names.insert(&step.id, name.clone());
        let label = lines(step).iter().map(|line| mermaid_text(line)).collect::<Vec<_>>().join("<br/>");
        let inner = inner(step);
        if inner.is_empty() {
            let (open, close) = match step.run {
                Action::Map(_) => ("[/\"", "\"/]"),
                Action::Sleep(_) | Action::SleepUntil(_) => ("([\"", "\"])"),
                Action::Wait(_) | Action::Suspend(_) => ("{{\"", "\"}}"),
                Action::Agent(_) | Action::Workflow(_) => ("[[\"", "\"]]"),
                Action::Bail(_) => ("((\"", "\"))"),
                _ => ("[\"", "\"]"),
            };
            let _ = writeln!(text, "{indent}{name}{open}{label}{close}");
        } else {
            let _ = writeln!(text, "{indent}subgraph {name} [\"{label}\"]");
            mermaid_steps(inner, depth + 1, names, statuses, text);
            let _ = writeln!(text, "{indent}end");
        }
        if let Some(status) = statuses.get(&step.id) {
            let _ = writeln!(text, "{indent}class {name} {}", status.name());
        }
    }
    for step in steps {
        for before in &step.after {
            if let (Some(from), Some(to)) = (names.get(before.as_str()), names.get(step.id.as_str())) {
                let _ = writeln!(text, "{indent}{from} --> {to}");
            }
        }
    }
}

fn mermaid_text(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' => safe.push_str("#quot;"),
            '#' => safe.push_str("#35;"),
            '<' => safe.push_str("#lt;"),
            '>' => safe.push_str("#gt;"),
            '&' => safe.push_str("#amp;"),
            // Mermaid reads Markdown in labels.
            '`' => safe.push_str("#96;"),
            c if c.is_control() => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}

/// What stands in a step's box: its id, what it does, and when.
fn lines(step: &StepSpec) -> Vec<String> {
    let mapping = |made: &Mapping| match made {
        Mapping::From(path) => path.clone(),
        Mapping::Value(value) => value.to_string(),
        Mapping::Expr(text) => text.clone(),
        _ => String::new(),
    };
    let condition = |condition: &Condition| match condition {
        Condition::Expr(text) => text.clone(),
        Condition::Function(name) => format!("{name}()"),
        _ => String::new(),
    };
    let same = |name: &String| if *name == step.id { String::new() } else { name.clone() };
    let does = match &step.run {
        Action::Step(name) => same(name),
        Action::Tool(name) => format!("tool {name}"),
        Action::Agent(name) => format!("agent {name}"),
        Action::Workflow(name) => format!("workflow {name}"),
        Action::Map(made) => format!("map {}", mapping(made)),
        Action::Sleep(Mapping::Value(value)) => format!("sleep {value} ms"),
        Action::Sleep(made) => format!("sleep {}", mapping(made)),
        Action::SleepUntil(made) => format!("until {}", mapping(made)),
        Action::Wait(wait) => format!("signal {}", wait.signal),
        Action::Suspend(suspend) => {
            suspend.label.as_ref().map_or("suspend".into(), |label| format!("suspend: {label}"))
        }
        Action::Bail(made) => format!("bail {}", mapping(made)),
        Action::Foreach(foreach) => match foreach.concurrency {
            Some(most) if most > 1 => format!("for each, {most} at once"),
            _ => "for each".into(),
        },
        Action::Loop(repeat) => match (&repeat.while_, &repeat.until) {
            (Some(again), _) => format!("while {}", condition(again)),
            (_, Some(until)) => format!("until {}", condition(until)),
            _ => "loop".into(),
        },
        _ => String::new(),
    };
    let when = step.when.as_ref().map_or(String::new(), |when| format!("if {}", condition(when)));
    [step.id.clone(), does, when].into_iter().map(|line| short(line.trim())).filter(|line| !line.is_empty()).collect()
}

/// So many characters of a line are shown; the whole of it is in the tooltip.
const LINE_MAX: usize = 34;

fn short(line: &str) -> String {
    if line.chars().count() <= LINE_MAX {
        return line.to_owned();
    }
    line.chars().take(LINE_MAX - 1).chain(['…']).collect()
}

fn inner(step: &StepSpec) -> &[StepSpec] {
    match &step.run {
        Action::Foreach(foreach) => &foreach.steps,
        Action::Loop(repeat) => &repeat.steps,
        _ => &[],
    }
}

// --- SVG -----------------------------------------------------------------------------------------------------------------

/// Room around a box, between boxes of a layer, between layers, and the height of a line of text.
const MARGIN: f64 = 16.0;
const BESIDE: f64 = 24.0;
const BELOW: f64 = 40.0;
const LINE: f64 = 17.0;

/// The workflow as an SVG picture. It brings its own background, and needs no font and no script.
pub fn svg(spec: &WorkflowSpec, statuses: &BTreeMap<String, StepStatus>) -> String {
    let drawing = Layout::of(&spec.steps);
    let (width, height) = (drawing.width + 2.0 * MARGIN, drawing.height + 2.0 * MARGIN);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"system-ui, -apple-system, 'Segoe UI', sans-serif\" font-size=\"13\">\n\
         <title>{}</title>\n\
         <defs><marker id=\"arrow\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\">\
         <path d=\"M0 0L8 4L0 8z\" fill=\"#6b7280\"/></marker></defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n",
        escaped(&spec.name)
    );
    drawing.draw(MARGIN, MARGIN, statuses, &mut text);
    text.push_str("</svg>\n");
    text
}

/// Steps in layers, with places relative to their corner.
struct Layout<'a> {
    boxes: Vec<Placed<'a>>,
    /// From the middle of the one's foot to the middle of the other's head, by way of points in layers between.
    edges: Vec<Vec<(f64, f64)>>,
    width: f64,
    height: f64,
}

struct Placed<'a> {
    step: &'a StepSpec,
    lines: Vec<String>,
    inside: Option<Layout<'a>>,
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

/// Something in a layer: a step, or the place where an edge passes through.
#[derive(Clone, Copy)]
struct Slot {
    step: Option<usize>,
    width: f64,
    height: f64,
    x: f64,
    y: f64,
}

impl<'a> Layout<'a> {
    fn of(steps: &'a [StepSpec]) -> Self {
        let mut boxes: Vec<Placed<'a>> = steps.iter().map(Placed::of).collect();
        let at: HashMap<&str, usize> = steps.iter().enumerate().map(|(n, step)| (step.id.as_str(), n)).collect();
        let layers = layers(steps, &at);
        let deepest = layers.iter().copied().max().unwrap_or(0);
        let mut rows: Vec<Vec<usize>> = vec![Vec::new(); deepest + 1];
        let mut slots: Vec<Slot> = boxes
            .iter()
            .enumerate()
            .map(|(n, placed)| Slot { step: Some(n), width: placed.width, height: placed.height, x: 0.0, y: 0.0 })
            .collect();
        (0..slots.len()).for_each(|slot| rows[layers[slot]].push(slot));
        // Edges over several layers get a slot in each of them, so that they pass beside the boxes.
        let mut chains: Vec<Vec<usize>> = Vec::new();
        for (to, step) in steps.iter().enumerate() {
            for from in step.after.iter().filter_map(|id| at.get(id.as_str())) {
                let mut chain = vec![*from];
                for row in &mut rows[layers[*from] + 1..layers[to]] {
                    row.push(slots.len());
                    chain.push(slots.len());
                    slots.push(Slot { step: None, width: 8.0, height: 0.0, x: 0.0, y: 0.0 });
                }
                chain.push(to);
                chains.push(chain);
            }
        }
        let links: Vec<(usize, usize)> =
            chains.iter().flat_map(|chain| chain.windows(2).map(|w| (w[0], w[1]))).collect();
        order(&mut rows, &links);
        let row_width = |row: &[usize], slots: &[Slot]| {
            row.iter().map(|slot| slots[*slot].width).sum::<f64>() + BESIDE * row.len().saturating_sub(1) as f64
        };
        let width = rows.iter().map(|row| row_width(row, &slots)).fold(0.0, f64::max);
        let mut y = 0.0;
        for row in &rows {
            let height = row.iter().map(|slot| slots[*slot].height).fold(0.0, f64::max);
            let mut x = (width - row_width(row, &slots)) / 2.0;
            for slot in row {
                let slot = &mut slots[*slot];
                (slot.x, slot.y) = (x, y + (height - slot.height) / 2.0);
                x += slot.width + BESIDE;
            }
            y += height + BELOW;
        }
        for slot in &slots {
            if let Some(step) = slot.step {
                (boxes[step].x, boxes[step].y) = (slot.x, slot.y);
            }
        }
        let middle = |slot: &Slot| slot.x + slot.width / 2.0;
        let edges = chains
            .iter()
            .map(|chain| {
                let last = chain.len() - 1;
                let point = |(n, slot): (usize, &usize)| {
                    let slot = &slots[*slot];
                    (
                        middle(slot),
                        if n == 0 {
                            slot.y + slot.height
                        } else if n == last {
                            slot.y - 1.0
                        } else {
                            slot.y
                        },
                    )
                };
                chain.iter().enumerate().map(point).collect()
            })
            .collect();
        Self { boxes, edges, width, height: (y - BELOW).max(0.0) }
    }

    fn draw(&self, dx: f64, dy: f64, statuses: &BTreeMap<String, StepStatus>, text: &mut String) {
        for edge in &self.edges {
            let (x, y) = edge[0];
            let mut path = format!("M{:.1} {:.1}", x + dx, y + dy);
            for pair in edge.windows(2) {
                let ((x1, y1), (x2, y2)) = (pair[0], pair[1]);
                let bend = (y2 - y1) / 2.0;
                let _ = write!(
                    path,
                    "C{:.1} {:.1} {:.1} {:.1} {:.1} {:.1}",
                    x1 + dx,
                    y1 + bend + dy,
                    x2 + dx,
                    y2 - bend + dy,
                    x2 + dx,
                    y2 + dy
                );
            }
            let _ = writeln!(
                text,
                "<path d=\"{path}\" fill=\"none\" stroke=\"#6b7280\" stroke-width=\"1.3\" marker-end=\"url(#arrow)\"/>"
            );
        }
        for placed in &self.boxes {
            placed.draw(dx, dy, statuses.get(&placed.step.id).copied(), statuses, text);
        }
    }
}

impl<'a> Placed<'a> {
    fn of(step: &'a StepSpec) -> Self {
        let lines = lines(step);
        let widest = lines.iter().map(|line| width_of(line)).fold(40.0, f64::max);
        let (mut width, mut height) = (widest + 28.0, lines.len() as f64 * LINE + 18.0);
        let inside = (!inner(step).is_empty()).then(|| Layout::of(inner(step)));
        if let Some(inside) = &inside {
            width = width.max(inside.width + 2.0 * MARGIN);
            height += inside.height + MARGIN;
        }
        Self { step, lines, inside, x: 0.0, y: 0.0, width, height }
    }

    fn draw(
        &self,
        dx: f64,
        dy: f64,
        status: Option<StepStatus>,
        statuses: &BTreeMap<String, StepStatus>,
        text: &mut String,
    ) {
        let (x, y) = (self.x + dx, self.y + dy);
        let (fill, line) = status.map_or(("#ffffff", "#374151"), StepStatus::colours);
        let fill = if self.inside.is_some() && status.is_none() { "#f9fafb" } else { fill };
        let round = match self.step.run {
            Action::Sleep(_) | Action::SleepUntil(_) | Action::Wait(_) | Action::Suspend(_) => self.height / 2.0,
            _ => 6.0,
        };
        let dashes = if status == Some(StepStatus::Skipped) { " stroke-dasharray=\"4 3\"" } else { "" };
        let mut title = self.step.id.clone();
        for said in [self.step.description.as_str(), status.map_or("", StepStatus::name)] {
            if !said.is_empty() {
                let _ = write!(title, "\n{said}");
            }
        }
        let _ = write!(
            text,
            "<g><title>{}</title><rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"{round:.1}\" fill=\"{fill}\" \
             stroke=\"{line}\" stroke-width=\"1.4\"{dashes}/>",
            escaped(&title),
            self.width,
            self.height
        );
        for (n, said) in self.lines.iter().enumerate() {
            let (weight, colour) = if n == 0 { ("600", "#111827") } else { ("400", "#4b5563") };
            let _ = write!(
                text,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-weight=\"{weight}\" fill=\"{colour}\">{}</text>",
                x + self.width / 2.0,
                y + 9.0 + LINE * n as f64 + 13.0,
                escaped(said)
            );
        }
        text.push_str("</g>\n");
        if let Some(inside) = &self.inside {
            let top = self.lines.len() as f64 * LINE + 18.0;
            inside.draw(x + (self.width - inside.width) / 2.0, y + top, statuses, text);
        }
    }
}

/// How far down each step is: one below the lowest of those before it. What goes in a circle is left where it is met again.
fn layers(steps: &[StepSpec], at: &HashMap<&str, usize>) -> Vec<usize> {
    let mut layers = vec![0; steps.len()];
    // A chain settles in as many rounds as it is long, in the order of the steps mostly in one.
    for _ in 0..steps.len() {
        let mut settled = true;
        for (n, step) in steps.iter().enumerate() {
            let below = step.after.iter().filter_map(|id| at.get(id.as_str())).map(|before| layers[*before] + 1).max();
            let layer = below.unwrap_or(0).min(steps.len());
            settled &= layers[n] == layer;
            layers[n] = layer;
        }
        if settled {
            break;
        }
    }
    layers
}

/// Puts what is linked near to one another: each layer by the middle of its neighbours above, then below, some times.
fn order(rows: &mut [Vec<usize>], links: &[(usize, usize)]) {
    let mut above: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut below: HashMap<usize, Vec<usize>> = HashMap::new();
    for (from, to) in links {
        above.entry(*to).or_default().push(*from);
        below.entry(*from).or_default().push(*to);
    }
    for _ in 0..4 {
        (1..rows.len()).for_each(|row| order_row(rows, row, row - 1, &above));
        (0..rows.len().saturating_sub(1)).rev().for_each(|row| order_row(rows, row, row + 1, &below));
    }
}

/// Puts each of a row under the middle of those that it is linked to in the other.
fn order_row(rows: &mut [Vec<usize>], row: usize, other: usize, links: &HashMap<usize, Vec<usize>>) {
    let last = |row: &[usize]| row.len().max(2) as f64 - 1.0;
    let (here, there) = (last(&rows[row]), last(&rows[other]));
    let place: HashMap<usize, f64> =
        rows[other].iter().enumerate().map(|(n, slot)| (*slot, n as f64 / there)).collect();
    let mut keyed: Vec<(f64, usize)> = rows[row]
        .iter()
        .enumerate()
        .map(|(n, slot)| {
            let near: Vec<f64> = links.get(slot).into_iter().flatten().filter_map(|s| place.get(s)).copied().collect();
            let middle = if near.is_empty() { n as f64 / here } else { near.iter().sum::<f64>() / near.len() as f64 };
            (middle, *slot)
        })
        .collect();
    keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
    rows[row] = keyed.into_iter().map(|(_, slot)| slot).collect();
}

/// The width of a text, a little more than most fonts need: full-width characters count double.
fn width_of(text: &str) -> f64 {
    text.chars().map(|c| if u32::from(c) >= 0x1100 { 14.0 } else { 7.4 }).sum()
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            // XML has no control characters but these.
            c if c.is_control() && !matches!(c, '\n' | '\t') => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}
