//! Tools: functions that a model may call.

use std::marker::PhantomData;

use lomusai_wire::{RawJson, ToolReply, ToolSpec, codes};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::component::CallContext;
use crate::{BoxFuture, Error, Result};

/// A function that a model may call.
///
/// An error is told to the model as the call's result; it does not end the run.
pub trait Tool: Send + Sync {
    /// Name, description, schemas and rules. Read once, at registration.
    fn spec(&self) -> ToolSpec;

    /// Runs the tool on arguments that fit its schema, given as the JSON text the model wrote.
    ///
    /// Dropping the future means the result is not wanted any more; `context.cancel` is set then.
    fn call<'a>(&'a self, context: CallContext, arguments: &'a str) -> BoxFuture<'a, Result<ToolReply>>;
}

/// A Rust function with typed arguments as a [`Tool`]. Its input schema comes from the type.
///
/// # Example
/// ```
/// use lomusai_core::tool::TypedTool;
///
/// #[derive(serde::Deserialize, schemars::JsonSchema)]
/// struct Sum { a: i64, b: i64 }
///
/// let tool = TypedTool::new("add", "Adds two numbers", |_context, sum: Sum| async move { Ok(sum.a + sum.b) });
/// ```
pub struct TypedTool<A, F> {
    spec: ToolSpec,
    function: F,
    arguments: PhantomData<fn(A)>,
}

impl<A, R, F, Fut> TypedTool<A, F>
where
    A: DeserializeOwned + JsonSchema + Send + 'static,
    R: Serialize,
    F: Fn(CallContext, A) -> Fut + Send + Sync,
    Fut: Future<Output = Result<R>> + Send,
{
    /// A tool of this name. The description is for the model.
    pub fn new(name: impl Into<String>, description: impl Into<String>, function: F) -> Self {
        Self::from_spec(ToolSpec::new(name, description).with_input_schema(schema_of::<A>()), function)
    }

    /// A tool with this spec; its input schema must be that of `A`.
    pub fn from_spec(spec: ToolSpec, function: F) -> Self {
        Self { spec, function, arguments: PhantomData }
    }

    /// The same tool, with its spec changed.
    pub fn configure(mut self, change: impl FnOnce(&mut ToolSpec)) -> Self {
        change(&mut self.spec);
        self
    }
}

impl<A, R, F, Fut> Tool for TypedTool<A, F>
where
    A: DeserializeOwned + JsonSchema + Send + 'static,
    R: Serialize,
    F: Fn(CallContext, A) -> Fut + Send + Sync,
    Fut: Future<Output = Result<R>> + Send,
{
    fn spec(&self) -> ToolSpec {
        self.spec.clone()
    }

    fn call<'a>(&'a self, context: CallContext, arguments: &'a str) -> BoxFuture<'a, Result<ToolReply>> {
        Box::pin(async move {
            let arguments = serde_json::from_str(arguments).map_err(|e| {
                Error::new(codes::ARGUMENTS_INVALID, format!("the arguments of `{}` do not fit: {e}", self.spec.name))
            })?;
            let result = (self.function)(context, arguments).await?;
            let output = serde_json::to_value(result).map_err(|e| {
                Error::new(codes::TOOL_RESULT_INVALID, format!("the result of `{}` is not JSON: {e}", self.spec.name))
            })?;
            Ok(output.into())
        })
    }
}

/// A Rust function that gets the arguments as text and gives a [`ToolReply`]: for tools that suspend, or without types.
pub struct FnTool<F> {
    spec: ToolSpec,
    function: F,
}

impl<F, Fut> FnTool<F>
where
    F: Fn(CallContext, String) -> Fut + Send + Sync,
    Fut: Future<Output = Result<ToolReply>> + Send + 'static,
{
    /// A tool with this spec.
    pub fn new(spec: ToolSpec, function: F) -> Self {
        Self { spec, function }
    }
}

impl<F, Fut> Tool for FnTool<F>
where
    F: Fn(CallContext, String) -> Fut + Send + Sync,
    Fut: Future<Output = Result<ToolReply>> + Send + 'static,
{
    fn spec(&self) -> ToolSpec {
        self.spec.clone()
    }

    fn call<'a>(&'a self, context: CallContext, arguments: &'a str) -> BoxFuture<'a, Result<ToolReply>> {
        Box::pin((self.function)(context, arguments.to_owned()))
    }
}

/// The JSON Schema of a type, as `schemars` derives it.
pub fn schema_of<T: JsonSchema>() -> RawJson {
    RawJson::from(schemars::SchemaGenerator::default().into_root_schema_for::<T>().as_value())
}
