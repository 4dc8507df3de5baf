//! The table of bad input, as the kit under every binding meets it, and as a Rust program does wherever its types let it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use lomusai::testing::ScriptedModel;
use lomusai::tool::FnTool;
use lomusai::wire::{StepReply, WorkflowRequest, WorkflowSpec};
use lomusai::{AgentSpec, Engine, Error, Result, RunId, StartRequest, ToolSpec};
use lomusai_core::component::FnStep;
use lomusai_host::{Answer, CallInfo, HostEngine, Placement};
use lomusai_runtime::RunRequest;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(default)]
    first: Vec<Step>,
    does: String,
    #[serde(default)]
    args: Value,
    text: Option<String>,
    file: Option<String>,
    code: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    does: String,
    #[serde(default)]
    args: Value,
}

fn cases() -> Vec<Case> {
    let path = conformance().join("bad_input.json");
    serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn conformance() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance")
}

#[test]
fn the_kit_under_every_binding_gives_the_codes_of_the_table() {
    let mut wrong = Vec::new();
    for case in cases() {
        let engine = HostEngine::open("{}").unwrap();
        for step in &case.first {
            act(&engine, &step.does, &step.args.to_string(), &step.args)
                .unwrap_or_else(|e| panic!("{}: {e}", case.name));
        }
        let text = case.text.clone().unwrap_or_else(|| case.args.to_string());
        let ended = match &case.file {
            Some(kind) => BadFile::new(kind).open(&case.args),
            None => act(&engine, &case.does, &text, &case.args),
        };
        wrong.extend(differs(&case, ended));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Texts and unknown fields cannot be given to Rust's own types; what can be gets the same code.
#[test]
fn a_rust_program_gets_the_same_codes_as_far_as_its_types_let_it_go_wrong() {
    let (mut wrong, mut tried) = (Vec::new(), 0);
    for case in cases().into_iter().filter(|case| case.text.is_none() && case.file.is_none()) {
        let engine = Engine::in_memory().unwrap();
        if case.first.iter().any(|step| !matches!(typed(&engine, &step.does, &step.args), Some(Ok(())))) {
            continue;
        }
        let Some(ended) = typed(&engine, &case.does, &case.args) else { continue };
        tried += 1;
        wrong.extend(differs(&case, ended));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(tried >= 20, "only {tried} cases of the table could be tried");
}

fn differs(case: &Case, ended: Result<()>) -> Option<String> {
    match ended {
        Err(error) if error.code() == case.code && error.to_string().len() > 10 => None,
        Err(error) => Some(format!("{}: expected {}, was {}: {error}", case.name, case.code, error.code())),
        Ok(()) => Some(format!("{}: expected {}, but it went well", case.name, case.code)),
    }
}

fn act(engine: &Arc<HostEngine>, does: &str, text: &str, args: &Value) -> Result<()> {
    let null = || Arc::new(|_: CallInfo, answer: Answer| drop(answer.resolve("null")));
    let field = |name: &str| args[name].as_str().unwrap_or_default();
    match does {
        "open" => HostEngine::open(text).map(drop),
        "register_tool" => engine.register_tool(text, Placement::Pool, null()),
        "register_function" => engine.register_function(field("name"), Placement::Pool, null()),
        "register_provider" => engine.register_provider(field("name"), Placement::Pool, null()),
        "register_builtin_provider" => engine.register_builtin_provider(field("name"), &args["config"].to_string()),
        "register_agent" => engine.register_agent(text),
        "register_workflow" => engine.register_workflow(text),
        "register_step" => engine.register_step(field("name"), Placement::Pool, null()),
        "unregister" => engine.unregister(field("kind"), field("name")).map(drop),
        "run" => {
            let run = engine.run(text, None)?;
            run.discard_events();
            let result = run.result(Some(Duration::from_secs(60)))?.expect("it ends in time");
            result.error.map_or(Ok(()), Err)
        }
        "command" => {
            let command = json!({"run_id": args["run_id"], "command": args["command"]});
            engine.call("command", &command.to_string()).map(drop)
        }
        "call" => engine.call(field("operation"), &args["params"].to_string()).map(drop),
        "close" => engine.close(None),
        other => panic!("unknown step {other}"),
    }
}

/// `None` where no Rust program can do this.
fn typed(engine: &Engine, does: &str, args: &Value) -> Option<Result<()>> {
    let name = args["name"].as_str().unwrap_or_default();
    Some(match does {
        "register_tool" => {
            let spec: ToolSpec = serde_json::from_value(args.clone()).ok()?;
            engine.register_tool(FnTool::new(spec, |_, _| async { panic!("no case calls it") }))
        }
        "register_builtin_provider" if args["config"]["type"] == "scripted" => {
            ScriptedModel::from_value(args["config"]["script"].clone())
                .and_then(|model| engine.register_provider(name, model))
        }
        "register_builtin_provider" => {
            let mut config = args["config"].as_object()?.clone();
            let kind = config.remove("type")?;
            lomusai::llm::Provider::new(kind.as_str()?, serde_json::from_value(Value::Object(config)).ok()?)
                .and_then(|provider| engine.register_provider(name, provider))
        }
        // Serde takes a struct's fields from a list, too.
        "register_agent" | "register_workflow" if !args.is_object() => return None,
        "register_agent" => engine.register_agent(serde_json::from_value::<AgentSpec>(args.clone()).ok()?),
        "register_workflow" => engine.register_workflow(serde_json::from_value::<WorkflowSpec>(args.clone()).ok()?),
        "register_step" => engine.register_step(name, FnStep(|_, _| async { Ok(StepReply::output(Value::Null)) })),
        "run" => {
            let request: RunRequest = match args.get("workflow") {
                Some(_) => serde_json::from_value::<WorkflowRequest>(args.clone()).ok()?.into(),
                None => serde_json::from_value::<StartRequest>(args.clone()).ok()?.into(),
            };
            let own = engine.clone();
            engine
                .block_on(async move { own.run(request).await })
                .and_then(|ended| ended)
                .and_then(|result| result.error.clone().map_or(Ok(()), Err::<(), Error>))
        }
        "command" => {
            let command = serde_json::from_value(args["command"].clone()).ok()?;
            let (own, run_id) = (engine.clone(), RunId::from(args["run_id"].as_str()?));
            engine.block_on(async move { own.command(&run_id, command).await }).and_then(|ended| ended)
        }
        "close" => engine.close(Duration::from_secs(20)),
        _ => return None,
    })
}

/// A store file that is bad for as long as this lives.
struct BadFile {
    folder: tempfile::TempDir,
    holder: Option<Child>,
    read_only: bool,
}

impl BadFile {
    fn new(kind: &str) -> Self {
        let mut made = Self { folder: tempfile::tempdir().unwrap(), holder: None, read_only: false };
        let path = made.path();
        if kind == "corrupt" {
            fs::write(&path, "This is not a database. ".repeat(1_000)).unwrap();
            return made;
        }
        HostEngine::open(&json!({"path": path}).to_string()).unwrap().close(None).unwrap();
        match kind {
            "newer" => {
                let mut bytes = fs::read(&path).unwrap();
                bytes[60..64].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff]);
                fs::write(&path, bytes).unwrap();
            }
            "locked" => {
                let mut python = Command::new("python3");
                python.arg(conformance().join("hold_store.py")).arg(&path);
                let mut holder = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
                let mut said = String::new();
                BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
                assert_eq!(said, "locked\n");
                made.holder = Some(holder);
            }
            "read_only" => {
                permit(&path, 0o444);
                permit(made.folder.path(), 0o555);
                made.read_only = true;
            }
            other => panic!("unknown file {other}"),
        }
        made
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("store.db")
    }

    fn open(&self, options: &Value) -> Result<()> {
        let mut options = options.as_object().cloned().unwrap_or_default();
        options.insert("path".into(), json!(self.path()));
        let open = || HostEngine::open(&Value::Object(options).to_string()).map(drop);
        if self.read_only { as_a_user(open) } else { open() }
    }
}

impl Drop for BadFile {
    fn drop(&mut self) {
        if self.read_only {
            permit(self.folder.path(), 0o755);
        }
        if let Some(mut holder) = self.holder.take() {
            drop(holder.stdin.take());
            holder.wait().unwrap();
        }
    }
}

fn permit(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Permissions do not bind root: this thread is an ordinary user for as long as it tries.
fn as_a_user<T>(work: impl FnOnce() -> T) -> T {
    use rustix::process::{Uid, geteuid};
    use rustix::thread::set_thread_res_uid;
    if !geteuid().is_root() {
        return work();
    }
    set_thread_res_uid(None, Uid::from_raw(65_534), None).unwrap();
    let result = work();
    set_thread_res_uid(None, Uid::ROOT, None).unwrap();
    result
}
