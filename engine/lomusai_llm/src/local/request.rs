//! A request into a prompt: the conversation laid out by the model's template, the tools among it, and what the answer must begin with.

use std::sync::Arc;

use lomusai_core::{Error, Result};
use lomusai_wire::{Message, ModelRequest, ModelSettings, ModelTool, Part, Role, ToolChoice, codes};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::NAME;
use super::grammar::{self, ARGUMENTS_BEGIN, CALL_BEGINS, CALL_ENDS, NAME_BEGINS};
use super::native::Sampling;
use super::ordered::Json;
use super::response::Start;
use super::template::{Conversation, Template};

/// What a model is to do.
pub(super) struct Task {
    /// The text before its answer.
    pub(super) prompt: String,
    pub(super) start: Start,
    /// What the answer's beginning is held to.
    pub(super) first: Option<String>,
    /// What a call is held to once it has begun.
    pub(super) calls: Option<String>,
    /// Whether more calls may follow one.
    pub(super) many: bool,
    pub(super) stops: Vec<String>,
    pub(super) tokens_max: Option<u32>,
    pub(super) sampling: Sampling,
}

/// The fields of `settings.provider.local`.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Own {
    /// Tokens less likely than this share of the likeliest are left out.
    min_p: Option<f32>,
    /// Factor by which words already there become less likely. 1 is none.
    repeat_penalty: Option<f32>,
    /// Variables for the chat template.
    template: Map<String, Value>,
}

/// Makes a task of a request.
///
/// # Errors
/// `argument_invalid` for a setting, `unsupported` for pictures and files, `schema_unsupported`, `tool_unknown`, `model_template_invalid`.
pub(super) fn task(request: &ModelRequest, template: &Template) -> Result<Task> {
    let own = own(&request.settings)?;
    let sampling = sampling(&request.settings, &own)?;
    let tools: &[ModelTool] = if request.tool_choice == ToolChoice::None { &[] } else { &request.tools };
    let output = request.output.as_ref().map(|output| &output.schema);
    let (start, first, forced, many) = match &request.tool_choice {
        ToolChoice::Tool(name) => {
            let Some(tool) = tools.iter().find(|tool| tool.name == *name) else {
                return Err(Error::new(
                    codes::TOOL_UNKNOWN,
                    format!("tool_choice names the tool `{name}`, which the agent does not have"),
                )
                .with("tool", name.as_str()));
            };
            let forced = format!("{CALL_BEGINS}{NAME_BEGINS}{name}{ARGUMENTS_BEGIN}");
            (Start::Arguments(name.clone()), Some(grammar::of_arguments(tool)?), forced, false)
        }
        ToolChoice::Required if !tools.is_empty() => {
            (Start::Name, Some(grammar::of_calls(tools)?), format!("{CALL_BEGINS}{NAME_BEGINS}"), true)
        }
        _ => match output {
            None => (Start::Text, None, String::new(), true),
            Some(schema) if tools.is_empty() => (Start::Value, Some(grammar::of_value(schema)?), String::new(), false),
            Some(schema) => (Start::CallOrValue, Some(grammar::of_call_or_value(schema)?), String::new(), true),
        },
    };
    let mut variables = own.template;
    if start != Start::Text {
        // What is held to a form from its first token on cannot think first.
        variables.entry("enable_thinking").or_insert(Value::Bool(false));
    }
    let mut prompt = layout(request, tools, template, &variables)?;
    let start = if start == Start::Text && prompt.trim_end().ends_with("<think>") { Start::Reasoning } else { start };
    prompt.push_str(&forced);
    Ok(Task {
        prompt,
        start,
        first,
        calls: if tools.is_empty() { None } else { Some(grammar::of_calls(tools)?) },
        many,
        stops: request.settings.stop_sequences.iter().filter(|stop| !stop.is_empty()).cloned().collect(),
        tokens_max: request.settings.max_output_tokens,
        sampling,
    })
}

fn own(settings: &ModelSettings) -> Result<Own> {
    match settings.provider.get(NAME) {
        None => Ok(Own::default()),
        Some(fields) => Own::deserialize(fields).map_err(|error| {
            Error::new(codes::ARGUMENT_INVALID, format!("settings.provider.{NAME} cannot be read: {error}"))
        }),
    }
}

fn sampling(settings: &ModelSettings, own: &Own) -> Result<Sampling> {
    fn within(name: &str, value: Option<f64>, least: f64, most: f64) -> Result<Option<f32>> {
        match value {
            Some(value) if !(least..=most).contains(&value) => Err(Error::new(
                codes::ARGUMENT_INVALID,
                format!("settings.{name} must be between {least} and {most}, was {value}"),
            )),
            value => Ok(value.map(|value| value as f32)),
        }
    }
    let min_p = within("provider.local.min_p", own.min_p.map(f64::from), 0.0, 1.0)?;
    let repeat = within("provider.local.repeat_penalty", own.repeat_penalty.map(f64::from), 0.01, 10.0)?;
    let seed = match settings.seed {
        // llama.cpp's seeds have 32 bits; all bits set would mean a random one.
        Some(seed) => (seed ^ (seed >> 32)) as u32 & 0x7fff_ffff,
        None => getrandom::u32().unwrap_or(1) & 0x7fff_ffff,
    };
    Ok(Sampling {
        temperature: within("temperature", settings.temperature, 0.0, 2.0)?.unwrap_or(0.8),
        top_p: within("top_p", settings.top_p, 0.0, 1.0)?.unwrap_or(0.95),
        top_k: settings.top_k.unwrap_or(40).min(i32::MAX as u32),
        min_p: min_p.unwrap_or(0.05),
        presence: within("presence_penalty", settings.presence_penalty, -2.0, 2.0)?.unwrap_or(0.0),
        frequency: within("frequency_penalty", settings.frequency_penalty, -2.0, 2.0)?.unwrap_or(0.0),
        repeat: repeat.unwrap_or(1.0),
        seed,
    })
}

/// Lays the conversation out. A template that takes no instructions gets them at the head of what the user says first.
fn layout(
    request: &ModelRequest,
    tools: &[ModelTool],
    template: &Template,
    variables: &Map<String, Value>,
) -> Result<String> {
    let native = template.knows_tools;
    let mut messages = Vec::new();
    for message in &request.messages {
        messages.extend(said(message, native)?);
    }
    let described =
        if tools.is_empty() { None } else { Some(Json::Array(tools.iter().map(described).collect::<Result<_>>()?)) };
    if let Some(described) = described.as_ref().filter(|_| !native) {
        let words = instructions(described);
        match messages.first_mut().filter(|(role, _)| *role == "system") {
            Some((_, fields)) => prepend(fields, &words),
            None => messages.insert(0, ("system", vec![("content".into(), Json::Text(words))])),
        }
    }
    if !native {
        // Results come as the user's words, beside which the user may speak: one turn.
        messages.dedup_by(|(role, later), (before, earlier)| {
            let same = *role == "user" && *before == "user";
            if same {
                append(earlier, later);
            }
            same
        });
    }
    let render = |messages: &[(&str, Vec<(String, Json)>)]| {
        let messages: Vec<Json> = messages.iter().map(|(role, fields)| turn(role, fields)).collect();
        template.render(&Conversation { messages: &messages, tools: described.as_ref().filter(|_| native), variables })
    };
    match render(&messages) {
        Err(_) if messages.len() > 1 && messages[0].0 == "system" && messages[1].0 == "user" => {
            let (_, system) = messages.remove(0);
            let words = text_of(&system);
            prepend(&mut messages[0].1, &words);
            render(&messages)
        }
        other => other,
    }
}

type Fields = Vec<(String, Json)>;

fn turn(role: &str, fields: &Fields) -> Json {
    let mut all = vec![("role".to_owned(), Json::Text(role.to_owned()))];
    all.extend(fields.iter().cloned());
    Json::Object(all)
}

fn text_of(fields: &Fields) -> String {
    fields
        .iter()
        .find(|(name, _)| name == "content")
        .and_then(|(_, content)| content.text())
        .unwrap_or_default()
        .to_owned()
}

fn prepend(fields: &mut Fields, words: &str) {
    let text = text_of(fields);
    fields.retain(|(name, _)| name != "content");
    fields.insert(
        0,
        ("content".into(), Json::Text(if text.is_empty() { words.to_owned() } else { format!("{words}\n\n{text}") })),
    );
}

fn append(fields: &mut Fields, more: &Fields) {
    let text = format!("{}\n{}", text_of(fields), text_of(more));
    fields.retain(|(name, _)| name != "content");
    fields.insert(0, ("content".into(), Json::Text(text)));
}

/// A message as turns of the template.
fn said(message: &Arc<Message>, native: bool) -> Result<Vec<(&'static str, Fields)>> {
    let content = |text: String| vec![("content".to_owned(), Json::Text(text))];
    for part in &message.parts {
        if let Part::Image { .. } | Part::File { .. } = part {
            return Err(Error::new(
                codes::UNSUPPORTED,
                "local models read text only: leave pictures and files out, or send them to another provider",
            ));
        }
    }
    Ok(match message.role {
        Role::System => vec![("system", content(message.text()))],
        Role::Assistant => {
            let mut text = message.text();
            let calls: Vec<(&str, Json)> = message
                .tool_calls()
                .map(|call| {
                    (
                        call.name.as_str(),
                        serde_json::from_str(&call.arguments).unwrap_or(Json::Text(call.arguments.clone())),
                    )
                })
                .collect();
            if native && !calls.is_empty() {
                let calls = calls.into_iter().map(|(name, arguments)| {
                    let function =
                        vec![("name".to_owned(), Json::Text(name.to_owned())), ("arguments".to_owned(), arguments)];
                    Json::Object(vec![
                        ("type".to_owned(), Json::Text("function".to_owned())),
                        ("function".to_owned(), Json::Object(function)),
                    ])
                });
                let mut fields = content(text);
                fields.push(("tool_calls".to_owned(), Json::Array(calls.collect())));
                return Ok(vec![("assistant", fields)]);
            }
            for (name, arguments) in calls {
                if !text.is_empty() {
                    text.push('\n');
                }
                text.push_str(&format!("{CALL_BEGINS}{NAME_BEGINS}{name}{ARGUMENTS_BEGIN}{arguments}}}{CALL_ENDS}"));
            }
            vec![("assistant", content(text))]
        }
        Role::Tool => {
            let results = message
                .parts
                .iter()
                .filter_map(|part| if let Part::ToolResult(result) = part { Some(result) } else { None });
            results
                .map(|result| {
                    let text = result.to_text();
                    if native {
                        let mut fields = content(text);
                        fields.push(("name".to_owned(), Json::Text(result.name.clone())));
                        ("tool", fields)
                    } else {
                        ("user", content(format!("<tool_response>\n{text}\n</tool_response>")))
                    }
                })
                .collect()
        }
        _ => vec![("user", content(message.text()))],
    })
}

fn described(tool: &ModelTool) -> Result<Json> {
    let schema = serde_json::from_str(tool.input_schema.as_str()).map_err(|error| {
        Error::new(codes::SCHEMA_UNSUPPORTED, format!("the schema of tool `{}` cannot be read: {error}", tool.name))
    })?;
    let function = vec![
        ("name".to_owned(), Json::Text(tool.name.clone())),
        ("description".to_owned(), Json::Text(tool.description.clone())),
        ("parameters".to_owned(), schema),
    ];
    Ok(Json::Object(vec![
        ("type".to_owned(), Json::Text("function".to_owned())),
        ("function".to_owned(), Json::Object(function)),
    ]))
}

/// What a model without words of its own for tools is told about them.
fn instructions(tools: &Json) -> String {
    let mut text = String::from("You can call these tools:\n");
    if let Json::Array(tools) = tools {
        for tool in tools {
            if let Some(function) = tool.get("function") {
                text.push_str(&format!("{function}\n"));
            }
        }
    }
    text.push_str("\nTo call one, answer with its name and its arguments, like this:\n");
    text.push_str(&format!("{CALL_BEGINS}{NAME_BEGINS}NAME{ARGUMENTS_BEGIN}{{\"KEY\": \"VALUE\"}}}}{CALL_ENDS}\n"));
    text.push_str(
        "Its result comes back in <tool_response>. Call a tool only when it helps; otherwise answer in plain words.",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use lomusai_wire::{OutputSpec, RawJson};

    const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

    fn request(messages: serde_json::Value) -> ModelRequest {
        let mut request = ModelRequest::default();
        request.messages = serde_json::from_value(messages).unwrap();
        request
    }

    fn template(source: &str) -> Template {
        Template::new(source, (String::new(), String::new()), "x.gguf").unwrap()
    }

    fn tool() -> ModelTool {
        let schema =
            r#"{"type":"object","properties":{"zip":{"type":"string"},"area":{"type":"string"}},"required":["zip"]}"#;
        ModelTool::new("look_up", "Finds a place", RawJson::parse(schema).unwrap())
    }

    fn conversation() -> ModelRequest {
        request(serde_json::json!([
            {"role": "system", "parts": "Be short."},
            {"role": "user", "parts": "Where?"},
            {"role": "assistant", "parts": [{"type": "tool_call", "call_id": "c0.0", "name": "look_up", "arguments": "{\"zip\":\"1\"}"}]},
            {"role": "tool", "parts": [{"type": "tool_result", "call_id": "c0.0", "name": "look_up", "output": {"city": "B"}}]},
        ]))
    }

    #[test]
    fn a_template_without_tools_gets_them_in_words() {
        let mut request = conversation();
        request.tools = vec![tool()];
        let prompt = task(&request, &template(CHATML)).unwrap().prompt;
        assert!(
            prompt.starts_with("<|im_start|>system\nYou can call these tools:\n{\"name\": \"look_up\""),
            "{prompt}"
        );
        assert!(prompt.contains("Be short.<|im_end|>"), "{prompt}");
        assert!(
            prompt.find("\"zip\": {").unwrap() < prompt.find("\"area\": {").unwrap(),
            "the schema's order: {prompt}"
        );
        assert!(prompt.contains("assistant\n<tool_call>\n{\"name\": \"look_up\", \"arguments\": {\"zip\": \"1\"}}\n</tool_call><|im_end|>"), "{prompt}");
        assert!(
            prompt.ends_with(
                "user\n<tool_response>\n{\"city\":\"B\"}\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
            ),
            "{prompt}"
        );
    }

    #[test]
    fn a_template_that_knows_tools_lays_them_out() {
        let source = "{{ tools | tojson }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% for c in m.tool_calls %}<tool_call>{{ c.function.name }} {{ c.function.arguments | tojson }}{% endfor %}{% endfor %}";
        let mut request = conversation();
        request.tools = vec![tool()];
        let prompt = task(&request, &template(source)).unwrap().prompt;
        assert!(prompt.starts_with("[{\"type\": \"function\", \"function\": {\"name\": \"look_up\""), "{prompt}");
        assert!(prompt.ends_with("[assistant]<tool_call>look_up {\"zip\": \"1\"}[tool]{\"city\":\"B\"}"), "{prompt}");
    }

    #[test]
    fn a_template_without_instructions_gets_them_from_the_user() {
        let source = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}";
        let request =
            request(serde_json::json!([{"role": "system", "parts": "Be short."}, {"role": "user", "parts": "Hi"}]));
        assert_eq!(task(&request, &template(source)).unwrap().prompt, "[user]Be short.\n\nHi");
    }

    #[test]
    fn a_choice_decides_what_the_answer_begins_with() {
        let mut request = request(serde_json::json!([{"role": "user", "parts": "Hi"}]));
        request.tools = vec![tool()];
        let of = |request: &ModelRequest| task(request, &template(CHATML)).unwrap();
        assert_eq!((of(&request).start, of(&request).first), (Start::Text, None));
        request.tool_choice = ToolChoice::Required;
        assert!(of(&request).prompt.ends_with("assistant\n<tool_call>\n{\"name\": \""));
        request.tool_choice = ToolChoice::Tool("look_up".into());
        assert!(of(&request).prompt.ends_with("{\"name\": \"look_up\", \"arguments\": "));
        request.tool_choice = ToolChoice::Tool("look".into());
        assert!(task(&request, &template(CHATML)).is_err_and(|error| error.is(codes::TOOL_UNKNOWN)));
        request.output = Some(OutputSpec::new(RawJson::parse(r#"{"type":"object"}"#).unwrap()));
        request.tool_choice = ToolChoice::Auto;
        assert_eq!(of(&request).start, Start::CallOrValue);
        request.tool_choice = ToolChoice::None;
        assert_eq!(of(&request).start, Start::Value);
    }

    #[test]
    fn settings_out_of_range_and_unknown_ones_are_named() {
        for (settings, named) in [
            (serde_json::json!({"temperature": 3.0}), "temperature"),
            (serde_json::json!({"top_p": -0.1}), "top_p"),
            (serde_json::json!({"provider": {"local": {"mirostat": 2}}}), "mirostat"),
        ] {
            let mut request = request(serde_json::json!([{"role": "user", "parts": "Hi"}]));
            request.settings = serde_json::from_value(settings).unwrap();
            let error = task(&request, &template(CHATML)).err().expect("refused");
            assert!(error.is(codes::ARGUMENT_INVALID) && error.body().message.contains(named), "{error}");
        }
    }

    #[test]
    fn pictures_are_refused() {
        let request = request(
            serde_json::json!([{"role": "user", "parts": [{"type": "image", "source": {"url": "https://example.org/x.png"}}]}]),
        );
        assert!(task(&request, &template(CHATML)).is_err_and(|error| error.is(codes::UNSUPPORTED)));
    }
}
