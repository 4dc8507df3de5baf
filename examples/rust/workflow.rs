//! A workflow that asks a person about large refunds. Kept in a file, its run would go on in another process, in any language.

// Printing is what an example does.
#![allow(clippy::print_stdout)]

use lomusai::workflow::{
    CallContext, Each, FnStep, Mapping, Part, Retry, StepReply, TypedStep, Workflow, WorkflowRequest,
};
use lomusai::{Command, Engine, Result};
use serde_json::json;

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Order {
    order: String,
}

#[derive(serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
struct Refund {
    order: String,
    amount: u64,
}

fn refund() -> Workflow {
    let check = TypedStep::new("check", |_, Order { order }: Order| async move { Ok(Refund { order, amount: 120 }) });
    // Waits for the boss, maybe for days.
    let boss = FnStep(|context: CallContext, order| async move {
        Ok(match context.resume {
            None => {
                let mut reply = StepReply::suspend(json!({"may": "we pay back", "order": order}));
                reply.label = Some("boss".into());
                reply
            }
            Some(answer) if answer == json!(true) => StepReply::output(answer),
            Some(_) => StepReply::bail("the boss said no"),
        })
    });
    // The key is the same however often this is called for one run: give it to who takes the money.
    let pay = TypedStep::new("pay", |context: CallContext, refund: Refund| async move {
        println!("paying back {} under the key {}", refund.amount, context.idempotency_key());
        Ok(format!("{} paid back for {}", refund.amount, refund.order))
    });
    let tell = TypedStep::new("tell", |_, person: String| async move { Ok(format!("told {person}")) });

    Workflow::new("refund")
        .then(check)
        .branch([("steps.check.amount > 100".into(), Part::of("boss", boss))])
        .then(Part::from(pay).takes(Mapping::From("steps.check".into())).retried(Retry::new(3)))
        .map(Mapping::From("input.people".into()))
        .foreach(tell, Each { concurrency: Some(2), ..Each::default() })
}

#[tokio::main]
async fn main() -> Result<()> {
    let engine = Engine::in_memory()?;
    engine.register(refund())?;

    let mut request = WorkflowRequest::new("refund", json!({"order": "A-17", "people": ["Ada", "Bob"]}));
    request.run_id = Some("refund-1".into());
    let waits = engine.run(request).await?;
    println!("{:?}: {}", waits.status, waits.pending[0].label.as_deref().unwrap_or_default());

    let resume = Command::Resume { effect_id: None, label: Some("boss".into()), data: json!(true) };
    let result = engine.resume(&waits.run_id, resume, None).await?.result().await?;
    println!("{:?}: {}", result.status, json!(result.output.as_ref().and_then(|output| output.object.as_ref())));
    Ok(())
}
