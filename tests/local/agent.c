/* A model in the process, in C. See tests/local/README.md. */
#include "../c/check.h"

#define MODEL "local:smollm2-135m"
/* The first answer takes a download on a new machine. */
#define PATIENCE 600000

static lomusai_engine *engine;
static atomic_int refunds;

/* `"A-17"` and the like. */
static bool order_number(const char *text) {
  return text[0] >= 'A' && text[0] <= 'Z' && text[1] == '-' && text[2] >= '0' && text[2] <= '9' && text[3] >= '0' && text[3] <= '9' &&
         text[4] == '"';
}

static void refund(void *userdata, lomusai_str input, lomusai_answer *answer) {
  char text[256];
  (void)userdata;
  snprintf(text, sizeof text, "%.*s", (int)input.len, input.ptr);
  const char *order = strstr(text, "\"order\":"), *cents = strstr(text, "\"cents\":");
  if (order) order = strchr(order + 8, '"');
  CHECK(order && order_number(order + 1));
  CHECK(cents && atoi(cents + 8) >= 1 && atoi(cents + 8) <= 5000);
  CHECK(contains(text, "\"broken\"") || contains(text, "\"late\"") || contains(text, "\"lost\""));
  atomic_fetch_add(&refunds, 1);
  OK(lomusai_answer_resolve(answer, LIT("\"done\""), ERR));
  lomusai_answer_free(answer);
}

static void an_agent_calls_a_tool_and_streams(void) {
  static const char tool[] =
      "{\"name\":\"refund\",\"description\":\"Pays an order back.\",\"input_schema\":{\"type\":\"object\",\"properties\":{"
      "\"order\":{\"type\":\"string\",\"pattern\":\"^[A-Z]-[0-9]{2}$\"},\"cents\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":5000},"
      "\"reason\":{\"enum\":[\"broken\",\"late\",\"lost\"]}},\"required\":[\"order\",\"cents\",\"reason\"],\"additionalProperties\":false}}";
  static const char agent[] =
      "{\"name\":\"clerk\",\"model\":\"" MODEL "\",\"tools\":[\"refund\"],"
      "\"settings\":{\"max_output_tokens\":60,\"seed\":7,\"temperature\":1.0}}";
  static const char request[] =
      "{\"agent\":\"clerk\",\"input\":\"Order A-17 for 12.99 is broken.\",\"options\":{\"tool_choice\":{\"tool\":\"refund\"}}}";
  lomusai_run *run = NULL;
  char *event = NULL, *result = NULL, *digest = NULL;
  int deltas = 0;
  OK(lomusai_register_tool(engine, LIT(tool), LOMUSAI_POOL, refund, NULL, NULL, ERR));
  OK(lomusai_register_agent(engine, LIT(agent), ERR));
  OK(lomusai_run_start(engine, LIT(request), NULL, &run, ERR));
  MUST(run);
  while (lomusai_run_next(run, PATIENCE, &event, ERR) == LOMUSAI_OK) {
    deltas += contains(event, "part_delta");
    lomusai_string_free(event);
  }
  OK(lomusai_run_result(run, PATIENCE, &result, ERR));
  CHECK(contains(result, "\"status\":\"completed\"") && contains(result, "\"output\":"));
  CHECK(atomic_load(&refunds) == 1 && deltas > 1);
  OK(lomusai_engine_digest(engine, lomusai_run_id(run), &digest, ERR));
  CHECK(digest && strlen(digest) > 32);
  lomusai_string_free(digest);
  lomusai_string_free(result);
  lomusai_run_free(run);
}

static void texts_become_vectors(void) {
  static const char question[] = "{\"embedder\":\"local:minilm-l6-v2\",\"texts\":[\"A ship at sea\",\"Tax law of 1911\"]}";
  char *vectors = NULL;
  OK(lomusai_engine_call(engine, "embed", LIT(question), &vectors, ERR));
  MUST(vectors);
  double length = 0;
  int numbers = 0;
  for (char *at = strstr(vectors, "[["); at && *at != ']'; numbers++) {
    char *end = NULL;
    double x = strtod(at + 1 + (numbers == 0), &end);
    length += x * x;
    at = end;
  }
  CHECK(numbers == 384 && length > 0.999 && length < 1.001);
  lomusai_string_free(vectors);
}

static void a_model_that_is_not_there_is_named(void) {
  lomusai_run *run = NULL;
  char *result = NULL;
  OK(lomusai_register_agent(engine, LIT("{\"name\":\"lost\",\"model\":\"local:/nowhere/x.gguf\",\"settings\":{\"max_retries\":0}}"), ERR));
  OK(lomusai_run_start(engine, LIT("{\"agent\":\"lost\",\"input\":\"Hello\"}"), NULL, &run, ERR));
  MUST(run);
  lomusai_run_discard_events(run);
  OK(lomusai_run_result(run, PATIENCE, &result, ERR));
  CHECK(contains(result, "\"code\":\"model_unknown\"") && contains(result, "/nowhere/x.gguf"));
  lomusai_string_free(result);
  lomusai_run_free(run);
}

int main(void) {
  lomusai_engine_options options;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  options.config_json = "{\"providers\":{\"local\":{\"threads\":1,\"context_tokens\":2048}}}";
  OK(lomusai_engine_open(&options, &engine, ERR));
  MUST(engine);
  TEST(an_agent_calls_a_tool_and_streams);
  TEST(texts_become_vectors);
  TEST(a_model_that_is_not_there_is_named);
  close_engine(engine);
  return tests_end();
}
