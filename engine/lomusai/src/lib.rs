//! An agent engine that you embed: agents, tools and durable runs behind one small API.
