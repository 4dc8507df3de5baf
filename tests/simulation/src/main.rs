//! Plays seeds on all cores, and says what was wrong and how often each fault happened.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a person or the task reads what it found")]

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use lomusai_simulation::fault::{Counts, Fault};
use lomusai_simulation::{Played, open, play};

const USAGE: &str = "simulate [--seeds N] [--from S] [--threads T] [--least N] [--failures N] | simulate --seed S";

/// What is asked for.
struct Arguments {
    seeds: u64,
    from: u64,
    threads: u64,
    /// How often each fault has to happen.
    least: u64,
    /// How many failing seeds are enough.
    failures: u64,
    /// One seed, told in words.
    one: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = match Arguments::read() {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!("{why}: {USAGE}");
            return ExitCode::FAILURE;
        }
    };
    if let Some(seed) = arguments.one {
        let played = play(seed, Some(|line| println!("{line}")));
        println!("trace {:016x}", played.trace);
        return verdict(seed, &played);
    }
    many(&arguments)
}

impl Arguments {
    fn read() -> Result<Self, String> {
        let mut read = Self { seeds: 10_000, from: 0, threads: 2, least: 0, failures: 1, one: None };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let value = words.next().ok_or_else(|| format!("{word} needs a number"))?;
            let number = value.parse().map_err(|_| format!("{word} needs a number, not `{value}`"))?;
            match word.as_str() {
                "--seeds" => read.seeds = number,
                "--from" => read.from = number,
                "--threads" => read.threads = number.max(1),
                "--least" => read.least = number,
                "--failures" => read.failures = number,
                "--seed" => read.one = Some(number),
                _ => return Err(format!("unknown argument `{word}`")),
            }
        }
        Ok(read)
    }
}

fn verdict(seed: u64, played: &Played) -> ExitCode {
    match &played.wrong {
        None => ExitCode::SUCCESS,
        Some(why) => {
            eprintln!("seed {seed}: {why}\n  replay it: cargo xtask simulate --seed {seed}");
            ExitCode::FAILURE
        }
    }
}

fn many(arguments: &Arguments) -> ExitCode {
    let (next, failed, open) = (AtomicU64::new(0), AtomicU64::new(0), open());
    let counts = Mutex::new(Counts::default());
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads {
            scope.spawn(|| {
                let mut own = Counts::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= arguments.seeds || failed.load(Ordering::Relaxed) >= arguments.failures {
                        break;
                    }
                    let seed = arguments.from + seed;
                    if open.contains_key(&seed) {
                        continue;
                    }
                    let played = play(seed, None);
                    own.merge(&played.counts);
                    if played.wrong.is_some() {
                        failed.fetch_add(1, Ordering::Relaxed);
                        verdict(seed, &played);
                    }
                }
                counts.lock().expect("nobody panics here").merge(&own);
            });
        }
    });
    let counts = counts.into_inner().expect("nobody panics here");
    for fault in Fault::ALL {
        println!("{:>8}  {fault:?}", counts.of(fault));
    }
    if failed.into_inner() > 0 {
        return ExitCode::FAILURE;
    }
    if let Some(rare) = Fault::ALL.into_iter().find(|fault| counts.of(*fault) < arguments.least) {
        eprintln!(
            "{rare:?} happened {} times, and should {}: more seeds, or a higher rate",
            counts.of(rare),
            arguments.least
        );
        return ExitCode::FAILURE;
    }
    let left_out = open.range(arguments.from..arguments.from + arguments.seeds).count() as u64;
    println!("{} seeds from {} played, nothing wrong", arguments.seeds - left_out, arguments.from);
    if left_out > 0 {
        println!("{left_out} seeds left out, since what they find is known: tests/simulation/open.txt");
    }
    ExitCode::SUCCESS
}
