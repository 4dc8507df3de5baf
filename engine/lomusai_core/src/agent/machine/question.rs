//! What effects ask: requests to models, questions to functions.

use std::sync::Arc;

use lomusai_wire::{Instructions, Message, ModelRequest, ModelTool, Role, ToolChoice};
use serde_json::{Value, json};

use super::AgentMachine;
use crate::Result;
use crate::agent::state::{Open, Phase};

impl AgentMachine {
    /// The settings for the agent's own model (`choice` 0) or a fallback: the agent's, under the run's, under the fallback's, under those of
    /// a step processor.
    pub(super) fn settings(&self, choice: u32) -> lomusai_wire::ModelSettings {
        let fallback = choice.checked_sub(1).and_then(|place| self.agent().fallbacks.get(place as usize));
        let own = fallback.and_then(|entry| entry.settings.as_ref());
        let overlays = [self.state.options.settings.as_ref(), own, self.state.overlay.settings.as_ref()];
        overlays.into_iter().flatten().fold(self.agent().settings.clone(), |settings, over| settings.overlaid(over))
    }

    pub(super) fn request(&self, choice: u32) -> ModelRequest {
        let state = &self.state;
        let said = state.overlay.messages.as_deref().unwrap_or(&*state.messages);
        let text = match &self.agent().instructions {
            Some(Instructions::Text(text)) => Some(text),
            _ => None,
        };
        let instructions = state
            .overlay
            .instructions
            .as_ref()
            .or(state.options.instructions.as_ref())
            .or(state.instructions.as_ref())
            .or(text);
        let mut request = ModelRequest::default();
        request.messages = Vec::with_capacity(said.len() + 1);
        request
            .messages
            .extend(instructions.filter(|text| !text.is_empty()).map(|text| Arc::new(Message::system(text))));
        request.messages.extend(said.iter().cloned());
        let offered = self.plan.plan.offered.iter().chain(&self.plan.client_offered);
        request.tools = offered.filter(|tool| self.offers(&tool.name)).cloned().collect::<Vec<ModelTool>>();
        let forced = state
            .overlay
            .tool_choice
            .as_ref()
            .or(state.options.tool_choice.as_ref())
            .unwrap_or(&self.agent().tool_choice);
        // A forced call is forced once: a model that had to call a tool at every step could never answer.
        let called = state.messages[state.history..].iter().any(|message| message.role == Role::Tool);
        request.tool_choice = match forced {
            ToolChoice::Required | ToolChoice::Tool(_) if called && state.overlay.tool_choice.is_none() => {
                ToolChoice::Auto
            }
            other => other.clone(),
        };
        request.settings = self.settings(choice);
        request.output = state.options.output.as_ref().or(self.agent().output.as_ref()).cloned();
        request
    }

    pub(super) fn question(&self, open: &Open) -> Value {
        let (agent, state) = (self.agent(), &self.state);
        let id = open.effect_id.as_str();
        if let Some(place) = open.call {
            let call = &state.calls[place];
            let arguments: Value = serde_json::from_str(&self.arguments(call)).unwrap_or_default();
            let mut question = json!({"tool": call.call.name, "call_id": call.call.call_id, "arguments": arguments});
            if let Some(result) = call.result.as_ref().filter(|_| id.ends_with(".after")) {
                question["status"] = json!(result.status);
                question["output"] = result.output.clone();
            }
            return question;
        }
        let last = || json!(state.last_assistant());
        match state.phase {
            Phase::Preparing if state.chain < agent.processors.input.len() => {
                json!({"phase": "input", "messages": state.messages[state.history..]})
            }
            Phase::Preparing => json!({"agent": agent.name, "input": state.messages[state.history..]}),
            Phase::StepStart => {
                json!({"phase": "step", "step": state.step, "messages": state.overlay.messages.as_deref().unwrap_or(&*state.messages)})
            }
            Phase::Finishing(_) => {
                let text = state.answer_text();
                json!({"phase": "output", "text": text, "object": self.object().and_then(Result::ok)})
            }
            _ => json!({"step": state.step, "message": last(), "usage": state.usage}),
        }
    }
}
