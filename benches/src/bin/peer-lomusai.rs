//! One of the peers: does the job it is named, against the scripted model server of the others, and prints one line about it.
//! `peer-lomusai JOB [N]`; `MOCK_URL` is the server.

// Printing is what this program does.
#![allow(clippy::print_stdout)]

use std::time::Instant;

use lomusai::llm::{Provider, ProviderConfig};
use lomusai::stores::sqlite::Sync;
use lomusai::wire::{Instructions, PartDelta};
use lomusai::{AgentSpec, Engine, EventBody, Result, StartRequest};
use lomusai_benches::flows::{self, STEPS, TemporaryStore};
use lomusai_benches::{add, cpu_us, memory_kb, now};
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: lomusai_benches::Allocator = lomusai_benches::Allocator;

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let job = words.next().unwrap_or_default();
    let n = words.next().and_then(|n| n.parse().ok());
    // As a peer runs them: everything on the engine's own threads.
    let begun = cpu_us();
    // Asked for as the others ask: as a stream where somebody reads it.
    let kept = if job == "J6d" { Some(TemporaryStore::new(Sync::Normal)?) } else { None };
    let engine = match &*job {
        "J6" | "J6d" | "J7" => flows::engine(kept.as_ref().map(|kept| kept.store.clone() as _), None)?,
        _ => engine(job == "J4")?,
    };
    let work = {
        let engine = engine.clone();
        let job = job.clone();
        async move {
            match job.as_str() {
                "J0" => agents(&engine, n.unwrap_or(10_000)),
                "J1" => cold_start(&engine, begun).await,
                "J2" => turns(&engine, n.unwrap_or(500)).await,
                "J3" => tool_rounds(&engine, n.unwrap_or(50)).await,
                "J4" => stream(&engine, n.unwrap_or(20_000)).await,
                "J5" => at_once(&engine, n.unwrap_or(1_000)).await,
                "J6" => chains(&engine, n.unwrap_or(1_000), 50, json!({})).await,
                "J6d" => chains(&engine, n.unwrap_or(1_000), 20, json!({"store": "sqlite file"})).await,
                "J7" => fans(&engine, n.unwrap_or(10)).await,
                _ => Ok(None),
            }
        }
    };
    match engine.block_on(work)?? {
        Some(done) => println!("{}", done.line(&job)),
        None => println!("{}", json!({"peer": "lomusai", "job": job, "skip": "no such job here"})),
    }
    Ok(())
}

/// An engine with the model and the tool, as every job wants it.
fn engine(stream: bool) -> Result<Engine> {
    let url = std::env::var("MOCK_URL").unwrap_or_else(|_| "http://127.0.0.1:18080/v1".into());
    let mut config = ProviderConfig::new(url);
    config.api_key = Some("mock".into());
    config.stream = stream;
    let engine = Engine::in_memory()?;
    engine.register_provider("mock", Provider::new("compatible", config)?)?;
    engine.register_tool(add("add"))?;
    Ok(engine)
}

fn agent(name: &str, tools: &[&str]) -> AgentSpec {
    let mut agent = AgentSpec::new(name, "mock/mock");
    agent.instructions = Some(Instructions::Text("You are a helpful assistant.".into()));
    agent.tools = tools.iter().map(|tool| (*tool).to_owned()).collect();
    agent.max_steps = Some(20);
    agent
}

async fn turn(engine: &Engine, agent: &str, prompt: &str) -> Result<()> {
    let result = engine.run(StartRequest::new(agent, prompt)).await?;
    assert!(!result.text().is_empty(), "{:?}", result.error);
    Ok(())
}

/// What a job took.
struct Done {
    n: u64,
    wall_s: f64,
    cpu_s: f64,
    extra: Value,
}

impl Done {
    fn line(&self, job: &str) -> Value {
        json!({"peer": "lomusai", "job": job, "n": self.n, "wall_s": self.wall_s, "cpu_s": self.cpu_s,
            "peak_rss_kb": memory_kb("VmHWM:"), "extra": self.extra})
    }
}

struct Watch {
    wall: Instant,
    cpu: f64,
}

impl Watch {
    fn start() -> Self {
        Self { wall: now(), cpu: cpu_us() }
    }

    fn done(&self, n: u64, extra: impl FnOnce(f64) -> Value) -> Result<Option<Done>> {
        let (wall_s, cpu_s) = (self.wall.elapsed().as_secs_f64(), (cpu_us() - self.cpu) / 1e6);
        Ok(Some(Done { n, wall_s, cpu_s, extra: extra(wall_s) }))
    }
}

/// Agents that share a registered tool; beside them, tools of their own, which are compiled each.
fn agents(engine: &Engine, n: u64) -> Result<Option<Done>> {
    for i in 0..200 {
        engine.register_agent(agent(&format!("warm-{i}"), &["add"]))?;
    }
    let (tools_n, before, tools) = (n.min(1_000), memory_kb("VmRSS:"), Watch::start());
    for i in 0..tools_n {
        engine.register_tool(add(&format!("add-{i}")))?;
    }
    let tool_us = (cpu_us() - tools.cpu) / tools_n as f64;
    let tool_bytes = (memory_kb("VmRSS:") - before) as f64 * 1024.0 / tools_n as f64;

    let (before, watch) = (memory_kb("VmRSS:"), Watch::start());
    for i in 0..n {
        engine.register_agent(agent(&format!("agent-{i}"), &["add"]))?;
    }
    watch.done(n, |wall_s| {
        json!({"us_per_agent": wall_s * 1e6 / n as f64, "bytes_per_agent": (memory_kb("VmRSS:") - before) as f64 * 1024.0 / n as f64,
            "distinct_tool_us": tool_us, "distinct_tool_bytes": tool_bytes})
    })
}

/// One turn with one call of the tool; the CPU time is the process's from its start.
async fn cold_start(engine: &Engine, begun: f64) -> Result<Option<Done>> {
    engine.register_agent(agent("agent", &["add"]))?;
    let watch = Watch { wall: now(), cpu: begun };
    turn(engine, "agent", "hello tools:1").await?;
    watch.done(1, |_| json!({"note": "no workflow"}))
}

async fn turns(engine: &Engine, n: u64) -> Result<Option<Done>> {
    engine.register_agent(agent("agent", &[]))?;
    for _ in 0..100 {
        turn(engine, "agent", "hello").await?;
    }
    let mut us = Vec::with_capacity(n as usize);
    let watch = Watch::start();
    for _ in 0..n {
        let lap = now();
        turn(engine, "agent", "hello").await?;
        us.push(lap.elapsed().as_secs_f64() * 1e6);
    }
    us.sort_by(f64::total_cmp);
    watch.done(n, |wall_s| {
        json!({"us_per_turn": wall_s * 1e6 / n as f64, "min_us": us[0], "p50_us": us[us.len() / 2], "p99_us": us[us.len() * 99 / 100]})
    })
}

async fn tool_rounds(engine: &Engine, n: u64) -> Result<Option<Done>> {
    engine.register_agent(agent("agent", &["add"]))?;
    for _ in 0..10 {
        turn(engine, "agent", "hello tools:10").await?;
    }
    let watch = Watch::start();
    for _ in 0..n {
        turn(engine, "agent", "hello tools:10").await?;
    }
    watch.done(
        n,
        |wall_s| json!({"ms_per_turn": wall_s * 1e3 / n as f64, "us_per_round": wall_s * 1e6 / (n * 11) as f64}),
    )
}

async fn stream(engine: &Engine, n: u64) -> Result<Option<Done>> {
    engine.register_agent(agent("agent", &[]))?;
    for _ in 0..5 {
        read(engine, 200).await?;
    }
    let watch = Watch::start();
    let (chunks, first_s) = read(engine, n).await?;
    assert!(chunks * 10 >= n * 9, "{chunks} chunks of {n}");
    watch.done(
        n,
        |wall_s| json!({"chunks": chunks, "chunks_per_s": chunks as f64 / wall_s, "first_chunk_ms": first_s * 1e3}),
    )
}

/// Reads a stream: how many chunks of text came, and when the first did.
async fn read(engine: &Engine, tokens: u64) -> Result<(u64, f64)> {
    let began = now();
    let (mut chunks, mut first_s) = (0, 0.0);
    let run = engine.stream(StartRequest::new("agent", format!("go tokens:{tokens}"))).await?;
    while let Some(event) = run.next().await {
        if let EventBody::PartDelta { delta: PartDelta::Text(text), .. } = &event.body {
            assert!(!text.is_empty());
            if chunks == 0 {
                first_s = began.elapsed().as_secs_f64();
            }
            chunks += 1;
        }
    }
    Ok((chunks, first_s))
}

async fn at_once(engine: &Engine, n: u64) -> Result<Option<Done>> {
    for i in 0..n {
        engine.register_agent(agent(&format!("agent-{i}"), &["add"]))?;
    }
    for _ in 0..20 {
        turn(engine, "agent-0", "hello").await?;
    }
    let watch = Watch::start();
    let runs = (0..n).map(|i| {
        let engine = engine.clone();
        async move { turn(&engine, &format!("agent-{i}"), "hello delay:50").await }
    });
    futures_util::future::try_join_all(runs).await?;
    watch.done(n, |wall_s| json!({"over_ideal_s": wall_s - 0.05}))
}

async fn chains(engine: &Engine, n: u64, warm: u64, mut extra: Value) -> Result<Option<Done>> {
    for _ in 0..warm {
        flows::run_chain(engine, "chain", STEPS).await?;
    }
    let watch = Watch::start();
    for _ in 0..n {
        flows::run_chain(engine, "chain", STEPS).await?;
    }
    watch.done(n, |wall_s| {
        extra["us_per_step"] = json!(wall_s * 1e6 / (n * STEPS) as f64);
        extra["steps_per_s"] = json!((n * STEPS) as f64 / wall_s);
        extra
    })
}

async fn fans(engine: &Engine, n: u64) -> Result<Option<Done>> {
    for _ in 0..2 {
        flows::run_fan(engine).await?;
    }
    let watch = Watch::start();
    for _ in 0..n {
        flows::run_fan(engine).await?;
    }
    watch.done(n, |wall_s| json!({"ms_per_run": wall_s * 1e3 / n as f64}))
}
