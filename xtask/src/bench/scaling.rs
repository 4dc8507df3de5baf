//! What a second core is worth: one program, pinned to one core and to two by turns.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Kitchen, lines_of};

/// Odd, so that there is one in the middle.
const PAIRS: usize = 7;
const WANTED: f64 = 1.6;

/// What the program says, per run.
#[derive(Deserialize, Serialize)]
struct Line {
    runs: f64,
    wall_us: f64,
    cpu_us: f64,
    /// CPU time of the busiest thread: the wall time of a machine that has nothing else to do.
    busiest_us: f64,
}

/// What is run a thousand times at once.
const JOBS: [&str; 2] = ["turns", "workflows"];

/// Of each job the pairs, one core and two.
pub(super) struct Figures(Vec<(&'static str, Pairs)>);

struct Pairs(Vec<(Line, Line)>);

pub(super) fn measure(kitchen: &Kitchen<'_>) -> Result<Figures, String> {
    kitchen.shell.need("taskset", "util-linux")?;
    let pinned = |job: &str, cores: &str| {
        let mut program = kitchen.shell.command("taskset");
        program.args(["-c", cores]).arg(kitchen.folder.join("release/scaling")).arg(job);
        let line: Option<Line> = lines_of(&mut program)?.pop();
        line.ok_or_else(|| "scaling printed nothing".to_owned())
    };
    let pairs = |job| (0..PAIRS).map(|_| Ok((pinned(job, "0")?, pinned(job, "0,1")?))).collect::<Result<_, String>>();
    JOBS.into_iter().map(|job| Ok((job, Pairs(pairs(job)?)))).collect::<Result<_, String>>().map(Figures)
}

impl Pairs {
    fn median(&self, of: impl Fn(&Line, &Line) -> f64) -> f64 {
        let mut all: Vec<f64> = self.0.iter().map(|(one, two)| of(one, two)).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    }

    /// By the clock, by CPU time alone, and how much more CPU time a run takes on two cores.
    fn gains(&self) -> [(&'static str, f64); 3] {
        [
            ("two cores, by the clock", self.median(|one, two| one.wall_us / two.wall_us)),
            ("two cores, by the busiest thread's CPU time", self.median(|one, two| one.cpu_us / two.busiest_us)),
            ("CPU time of a run on two cores, times that on one", self.median(|one, two| two.cpu_us / one.cpu_us)),
        ]
    }
}

impl Figures {
    pub(super) fn print(&self) {
        for (job, pairs) in &self.0 {
            println!("\nscaling: a thousand {job} at once, one core and two, median of {PAIRS} pairs");
            for (what, gain) in pairs.gains() {
                println!("{what:<52} {gain:>6.2}");
            }
        }
        println!(
            "wanted: >= {WANTED}. The clock counts what else the machine does; the busiest thread's CPU time does not."
        );
    }

    pub(super) fn json(&self) -> Value {
        let figures = self.0.iter().map(|(job, pairs)| {
            let medians: BTreeMap<_, _> = pairs.gains().into_iter().collect();
            (*job, json!({"pairs": pairs.0, "wanted": WANTED, "medians": medians}))
        });
        json!(figures.collect::<BTreeMap<_, _>>())
    }
}
