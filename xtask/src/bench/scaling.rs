//! What a second core is worth: one program, pinned to one core and to two by turns.

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

/// The pairs, one core and two.
pub(super) struct Figures(Vec<(Line, Line)>);

pub(super) fn measure(kitchen: &Kitchen<'_>) -> Result<Figures, String> {
    kitchen.shell.need("taskset", "util-linux")?;
    let pinned = |cores: &str| {
        let mut program = kitchen.shell.command("taskset");
        program.args(["-c", cores]).arg(kitchen.folder.join("release/scaling"));
        let line: Option<Line> = lines_of(&mut program)?.pop();
        line.ok_or_else(|| "scaling printed nothing".to_owned())
    };
    (0..PAIRS).map(|_| Ok((pinned("0")?, pinned("0,1")?))).collect::<Result<_, String>>().map(Figures)
}

impl Figures {
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

    pub(super) fn print(&self) {
        println!("\nscaling: a thousand scripted runs at once, one core and two, median of {PAIRS} pairs");
        for (what, gain) in self.gains() {
            println!("{what:<52} {gain:>6.2}");
        }
        println!(
            "wanted: >= {WANTED}. The clock counts what else the machine does; the busiest thread's CPU time does not."
        );
    }

    pub(super) fn json(&self) -> Value {
        json!({"pairs": self.0, "wanted": WANTED, "medians": self.gains().into_iter().collect::<std::collections::BTreeMap<_, _>>()})
    }
}
