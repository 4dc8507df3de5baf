//! The chat template that a model's file brings: a Jinja program that lays a conversation out as the model was taught.

use lomusai_core::{Error, Result};
use lomusai_wire::codes;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, ErrorKind, context};
use serde_json::Map;

use super::ordered::Json;

/// A compiled template.
pub(super) struct Template {
    environment: Environment<'static>,
    /// Whether it lays tools and calls out itself, in the form that [`super::grammar`] knows.
    pub(super) knows_tools: bool,
    bos: String,
    eos: String,
    file: String,
}

/// What a template is given.
pub(super) struct Conversation<'a> {
    pub(super) messages: &'a [Json],
    pub(super) tools: Option<&'a Json>,
    /// Further variables, such as `enable_thinking`.
    pub(super) variables: &'a Map<String, serde_json::Value>,
}

impl Template {
    /// Compiles a template.
    ///
    /// # Errors
    /// `model_template_invalid`.
    pub(super) fn new(source: &str, (bos, eos): (String, String), file: &str) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<(), minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| date(&format, seconds_now()));
        environment.add_filter("tojson", to_json);
        environment
            .add_template_owned("chat", source.to_owned())
            .map_err(|error| invalid(file, format!("has a chat template that cannot be compiled: {error}")))?;
        // Others write calls in ways of their own; they are told of tools in words.
        let knows_tools = source.contains("tools") && source.contains("<tool_call>") && !source.contains("<function");
        Ok(Self { environment, knows_tools, bos, eos, file: file.to_owned() })
    }

    /// Lays a conversation out, up to where the model is to speak.
    ///
    /// # Errors
    /// `model_template_invalid`, with the template's own words.
    pub(super) fn render(&self, conversation: &Conversation<'_>) -> Result<String> {
        let template = self.environment.get_template("chat").expect("added when it was made");
        let fixed = context! {
            messages => conversation.messages,
            tools => conversation.tools,
            add_generation_prompt => true,
            bos_token => self.bos,
            eos_token => self.eos,
        };
        let all = context! { ..Value::from_serialize(conversation.variables), ..fixed };
        template.render(all).map_err(|error| {
            let why = error.detail().map_or_else(|| error.to_string(), str::to_owned);
            invalid(&self.file, format!("has a chat template that does not take this conversation: {why}"))
        })
    }
}

fn invalid(file: &str, why: String) -> Error {
    Error::new(
        codes::MODEL_TEMPLATE_INVALID,
        format!("{file} {why}. Set chat_template in the provider's settings, or choose another model"),
    )
    .with("file", file)
}

/// JSON as Python prints it: templates are written for that, and models taught by it.
fn to_json(value: Value, options: Kwargs) -> Result<String, minijinja::Error> {
    let fail = |error: serde_json::Error| minijinja::Error::new(ErrorKind::BadSerialization, error.to_string());
    let indent: Option<usize> = options.get("indent")?;
    // What else Python takes changes nothing here.
    for name in ["ensure_ascii", "separators", "sort_keys"] {
        let _: Option<Value> = options.get(name)?;
    }
    options.assert_all_used()?;
    let Some(indent) = indent else {
        let text = serde_json::to_string(&value).map_err(fail)?;
        return serde_json::from_str::<Json>(&text).map(|json| json.to_string()).map_err(fail);
    };
    let spaces = vec![b' '; indent.min(16)];
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(&spaces);
    serde::Serialize::serialize(&value, &mut serde_json::Serializer::with_formatter(&mut text, formatter))
        .map_err(fail)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[expect(clippy::disallowed_methods, reason = "a template may ask for today's date, and a provider has no clock")]
fn seconds_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A time in UTC, in the words of `strftime` that templates use.
fn date(format: &str, seconds: u64) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    // Years begin in March here, so that the leap day is the last of its year.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (month_name, day_name) = (MONTHS[month as usize - 1], DAYS[(days % 7) as usize]);
    let mut text = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            text.push(letter);
            continue;
        }
        match letters.next() {
            Some('Y') => text += &year.to_string(),
            Some('m') => text += &format!("{month:02}"),
            Some('d') => text += &format!("{day:02}"),
            Some('B') => text += month_name,
            Some('b') => text += &month_name[..3],
            Some('A') => text += day_name,
            Some('a') => text += &day_name[..3],
            Some('H') => text += &format!("{:02}", time / 3_600),
            Some('M') => text += &format!("{:02}", time / 60 % 60),
            Some('S') => text += &format!("{:02}", time % 60),
            Some(other) => text.extend(['%', other]),
            None => text.push('%'),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, messages: &str) -> Result<String> {
        let template = Template::new(source, ("<s>".into(), "</s>".into()), "x.gguf")?;
        let Json::Array(messages) = serde_json::from_str(messages).unwrap() else { panic!("a list") };
        let tools = serde_json::from_str::<Json>(r#"[{"z": 1, "a": "<é>"}]"#).unwrap();
        template.render(&Conversation { messages: &messages, tools: Some(&tools), variables: &Map::new() })
    }

    #[test]
    fn what_templates_are_written_with_is_there() {
        let source = "{%- for message in messages %}\n  {%- if message['role'] == 'user' %}\n{{- '<|im_start|>' + message.role + '\n' + message.content.strip() + eos_token }}\n  {%- elif loop.first %}{% continue %}{%- endif %}\n{%- endfor %}{{ tools | tojson }}{{ messages[0].content.split(' ')[-1] | upper }}{{ 'x'.startswith('x') }}";
        let text = render(source, r#"[{"role": "system", "content": "be kind"}, {"role": "user", "content": " hi "}]"#)
            .unwrap();
        assert_eq!(text, "<|im_start|>user\nhi</s>[{\"z\": 1, \"a\": \"<é>\"}]KINDTrue");
    }

    #[test]
    fn its_own_complaint_is_passed_on() {
        let error = render("{{ raise_exception('roles must alternate') }}", "[]").unwrap_err();
        assert!(
            error.is(codes::MODEL_TEMPLATE_INVALID) && error.body().message.contains("roles must alternate"),
            "{error}"
        );
        let error = render("{% if %}", "[]").unwrap_err();
        assert!(error.is(codes::MODEL_TEMPLATE_INVALID) && error.body().message.contains("x.gguf"), "{error}");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date("%d %B %Y, %a %H:%M:%S %j", 1_709_251_199), "29 February 2024, Thu 23:59:59 %j");
        assert_eq!(date("%Y-%m-%d %b", 0), "1970-01-01 Jan");
    }
}
