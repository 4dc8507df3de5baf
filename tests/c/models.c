/* Models by name, over a real HTTP server on this machine: a stream, its usage and cost, errors by status, budgets, cassettes. */
#include "check.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define KEY "sk-canary-0123456789abcdefghijklmnop"
#define ASKS "{\"agent\":\"small\",\"input\":\"My key is " KEY "\"}"

/* --- The server ---------------------------------------------------------------------------------------------------- */

static atomic_int answer_status = 200, asked;
static int listener, port;

static const char STREAM[] =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hello \"}}]}\n\n"
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"there.\"},\"finish_reason\":\"stop\"}]}\n\n"
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":300,\"completion_tokens\":20,"
    "\"prompt_tokens_details\":{\"cached_tokens\":100}}}\n\n"
    "data: [DONE]\n\n";

static const char CALL[] =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"call_1\","
    "\"function\":{\"name\":\"add\",\"arguments\":\"{\\\"a\\\":19,\\\"b\\\":23}\"}}]},\"finish_reason\":\"tool_calls\"}]}\n\n"
    "data: [DONE]\n\n";

static char text[1 << 16];

/* Reads a request to its end: the body is as long as its header says. */
static bool read_request(int peer) {
  size_t len = 0;
  for (;;) {
    ssize_t got = read(peer, text + len, sizeof text - 1 - len);
    if (got <= 0) return false;
    text[len += (size_t)got] = '\0';
    char *end = strstr(text, "\r\n\r\n");
    char *length = strcasestr(text, "content-length:");
    if (end && length && len >= (size_t)(end + 4 - text) + strtoul(length + 15, NULL, 10)) return true;
  }
}

static void *serve(void *nothing) {
  (void)nothing;
  for (;;) {
    int peer = accept(listener, NULL, NULL);
    if (peer < 0) return NULL;
    if (read_request(peer)) {
      atomic_fetch_add(&asked, 1);
      int status = atomic_load(&answer_status);
      char refusal[160];
      const char *answer = strstr(text, "\"tools\":") && !strstr(text, "\"role\":\"tool\"") ? CALL : STREAM;
      if (status != 200) {
        snprintf(refusal, sizeof refusal, "HTTP/1.1 %d No\r\ncontent-length: 27\r\nconnection: close\r\n\r\n{\"error\":{\"message\":\"no!!\"}}", status);
        answer = refusal;
      }
      size_t left = strlen(answer);
      while (left > 0) {
        ssize_t sent = write(peer, answer, left);
        if (sent <= 0) break;
        answer += sent;
        left -= (size_t)sent;
      }
    }
    close(peer);
  }
}

static void start_server(void) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t len = sizeof address;
  pthread_t thread;
  listener = socket(AF_INET, SOCK_STREAM, 0);
  MUST(listener >= 0 && bind(listener, (struct sockaddr *)&address, len) == 0 && listen(listener, 16) == 0);
  MUST(getsockname(listener, (struct sockaddr *)&address, &len) == 0);
  port = ntohs(address.sin_port);
  MUST(pthread_create(&thread, NULL, serve, NULL) == 0);
  char url[64];
  snprintf(url, sizeof url, "http://127.0.0.1:%d/v1", port);
  setenv("COMPATIBLE_BASE_URL", url, 1);
  setenv("COMPATIBLE_API_KEY", KEY, 1);
  unsetenv("OPENAI_API_KEY");
}

/* --- The tests ----------------------------------------------------------------------------------------------------- */

#define PRICED \
  "\"models\":[{\"provider\":\"compatible\",\"model\":\"small\"," \
  "\"price\":{\"input\":2000000,\"cache_read\":1000000,\"output\":10000000}}]"

static lomusai_engine *open_with(const char *config) {
  lomusai_engine *engine = NULL;
  lomusai_engine_options options = {.struct_size = sizeof options, .config_json = config};
  OK(lomusai_engine_open(&options, &engine, ERR));
  MUST(engine);
  OK(lomusai_register_agent(engine, LIT("{\"name\":\"small\",\"model\":\"compatible/small\",\"settings\":{\"max_retries\":0}}"), ERR));
  return engine;
}

/* The result of a run, as JSON, to be freed. */
static char *result_of(lomusai_engine *engine, const char *request) {
  lomusai_run *run = NULL;
  char *result = NULL, *event = NULL;
  OK(lomusai_run_start(engine, request, strlen(request), NULL, &run, ERR));
  MUST(run);
  while (lomusai_run_next(run, 20000, &event, ERR) == LOMUSAI_OK) lomusai_string_free(event);
  OK(lomusai_run_result(run, 20000, &result, ERR));
  MUST(result);
  lomusai_run_free(run);
  return result;
}

static void a_model_is_chosen_by_a_string(void) {
  lomusai_engine *engine = open_with("{" PRICED "}");
  lomusai_run *run = NULL;
  char *event = NULL, *result = NULL;
  int deltas = 0;
  OK(lomusai_run_start(engine, LIT(ASKS), NULL, &run, ERR));
  while (lomusai_run_next(run, 20000, &event, ERR) == LOMUSAI_OK) {
    deltas += contains(event, "part_delta") && (contains(event, "Hello ") || contains(event, "there."));
    lomusai_string_free(event);
  }
  CHECK(deltas == 2);
  OK(lomusai_run_result(run, 20000, &result, ERR));
  CHECK(contains(result, "\"text\":\"Hello there.\""));
  CHECK(contains(result, "\"usage\":{\"cache_read\":100,\"input\":200,\"output\":20}"));
  CHECK(contains(result, "\"cost_nano_usd\":700000"));
  lomusai_string_free(result);
  lomusai_run_free(run);
  close_engine(engine);
}

static void a_cost_that_is_not_known_is_null(void) {
  lomusai_engine *engine = open_with("{}");
  char *result = result_of(engine, ASKS);
  CHECK(contains(result, "\"cost_nano_usd\":null"));
  lomusai_string_free(result);
  close_engine(engine);
}

static void each_kind_of_error_has_its_own_status(void) {
  static const struct {
    int status;
    const char *kind, *code;
  } cases[] = {
      {400, "\"kind\":\"provider\"", "\"code\":\"provider_rejected\""},
      {401, "\"kind\":\"denied\"", "\"code\":\"credentials_rejected\""},
      {429, "\"kind\":\"rate_limited\"", "\"code\":\"provider_rate_limited\""},
      {500, "\"kind\":\"unavailable\"", "\"code\":\"provider_failed\""},
  };
  lomusai_engine *engine = open_with("{}");
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    atomic_store(&answer_status, cases[i].status);
    char *result = result_of(engine, "{\"agent\":\"small\",\"input\":\"Hi\"}");
    CHECK(contains(result, cases[i].kind));
    CHECK(contains(result, cases[i].code));
    CHECK(!contains(result, KEY));
    lomusai_string_free(result);
  }
  atomic_store(&answer_status, 200);
  close_engine(engine);
}

static void a_missing_key_and_an_unknown_provider_are_named(void) {
  lomusai_engine *engine = open_with("{}");
  lomusai_run *run = NULL;
  OK(lomusai_register_agent(engine, LIT("{\"name\":\"a\",\"model\":\"openai/gpt-4o\"}"), ERR));
  OK(lomusai_register_agent(engine, LIT("{\"name\":\"b\",\"model\":\"nobody/model\"}"), ERR));
  lomusai_status status = lomusai_run_start(engine, LIT("{\"agent\":\"a\",\"input\":\"Hi\"}"), NULL, &run, ERR);
  CHECK(status == LOMUSAI_E_DENIED);
  CHECK(contains(lomusai_error_message(check_error), "OPENAI_API_KEY"));
  lomusai_error_free(check_error);
  check_error = NULL;
  FAILS("provider_unknown", lomusai_run_start(engine, LIT("{\"agent\":\"b\",\"input\":\"Hi\"}"), NULL, &run, ERR));
  close_engine(engine);
}

static void a_budget_ends_a_run(void) {
  lomusai_engine *engine = open_with("{\"budgets\":{\"team\":{\"calls\":1}}}");
  static const char request[] = "{\"agent\":\"small\",\"input\":\"Hi\",\"options\":{\"shared_budgets\":[\"team\"]}}";
  char *first = result_of(engine, request), *second = result_of(engine, request), *budgets = NULL;
  CHECK(contains(first, "\"status\":\"completed\""));
  CHECK(contains(second, "\"status\":\"exhausted\"") && contains(second, "budget_exhausted"));
  OK(lomusai_engine_call(engine, "budgets", NULL, 0, &budgets, ERR));
  CHECK(contains(budgets, "\"calls\":1"));
  lomusai_string_free(first);
  lomusai_string_free(second);
  lomusai_string_free(budgets);
  close_engine(engine);
}

static void a_cassette_is_recorded_and_given_back(void) {
  char path[] = "/tmp/lomusai-cassette-XXXXXX", options[256], written[1 << 14];
  int file = mkstemp(path), before = 0;
  MUST(file >= 0);
  for (int replay = 0; replay < 2; replay++) {
    snprintf(options, sizeof options, "{\"cassette\":{\"mode\":\"%s\",\"path\":\"%s\"}}", replay ? "replay" : "record", path);
    lomusai_engine *engine = open_with(options);
    char *result = result_of(engine, ASKS);
    CHECK(contains(result, "\"text\":\"Hello there.\""));
    CHECK(contains(result, "\"usage\":{\"cache_read\":100,\"input\":200,\"output\":20}"));
    lomusai_string_free(result);
    if (replay) {
      CHECK(atomic_load(&asked) == before);
      result = result_of(engine, "{\"agent\":\"small\",\"input\":\"Something else\"}");
      CHECK(contains(result, "cassette_miss"));
      lomusai_string_free(result);
    }
    before = atomic_load(&asked);
    close_engine(engine);
  }
  ssize_t len = read(file, written, sizeof written - 1);
  CHECK(len > 0);
  written[len > 0 ? len : 0] = '\0';
  CHECK(contains(written, "[REDACTED]") && !contains(written, KEY));
  close(file);
  unlink(path);
}

static atomic_int added;

static void add(void *userdata, lomusai_str input, lomusai_answer *answer) {
  (void)userdata;
  (void)input;
  atomic_fetch_add(&added, 1);
  lomusai_answer_resolve(answer, LIT("42"), NULL);
  lomusai_answer_free(answer);
}

/* One process with this cassette from its environment: asks once, with a tool. Gives how often the tool was called, or -1. */
static int asks_with(const char *mode, const char *path, const char *question) {
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    char request[128];
    setenv("LOMUSAI_CASSETTE", mode, 1);
    setenv("LOMUSAI_CASSETTE_PATH", path, 1);
    lomusai_engine *engine = open_with("{}");
    OK(lomusai_register_tool(engine, LIT("{\"name\":\"add\",\"description\":\"Adds.\"}"), LOMUSAI_POOL, add, NULL, NULL, ERR));
    OK(lomusai_register_agent(engine, LIT("{\"name\":\"adder\",\"model\":\"compatible/small\",\"tools\":[\"add\"]}"), ERR));
    snprintf(request, sizeof request, "{\"agent\":\"adder\",\"input\":\"%s\"}", question);
    char *result = result_of(engine, request);
    bool said = contains(result, "\"text\":\"Hello there.\"");
    lomusai_string_free(result);
    close_engine(engine);
    _exit(said ? atomic_load(&added) : 99);
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) == 99) return -1;
  return WEXITSTATUS(status);
}

static void the_environment_asks_for_a_cassette_of_models_and_tools(void) {
  char path[] = "/tmp/lomusai-cassette-XXXXXX";
  int file = mkstemp(path), before = atomic_load(&asked);
  MUST(file >= 0);
  close(file);
  CHECK(asks_with("record", path, "One") == 1);
  CHECK(atomic_load(&asked) == before + 2);
  CHECK(asks_with("replay", path, "One") == 0);
  CHECK(asks_with("auto", path, "One") == 0);
  CHECK(atomic_load(&asked) == before + 2);
  CHECK(asks_with("replay", path, "Two") == -1);
  /* The model is asked; what the tool said of these numbers is known. */
  CHECK(asks_with("auto", path, "Two") == 0);
  CHECK(atomic_load(&asked) == before + 4);
  CHECK(asks_with("replay", path, "Two") == 0);
  unlink(path);
}

static void models_are_listed(void) {
  lomusai_engine *engine = open_with("{" PRICED "}");
  char *models = NULL;
  OK(lomusai_engine_call(engine, "models", NULL, 0, &models, ERR));
  CHECK(contains(models, "\"provider\":\"compatible\",\"model\":\"small\",\"configured\":true"));
  CHECK(contains(models, "\"claude-sonnet-4-5\""));
  lomusai_string_free(models);
  close_engine(engine);
}

int main(void) {
  start_server();
  TEST(a_model_is_chosen_by_a_string);
  TEST(a_cost_that_is_not_known_is_null);
  TEST(each_kind_of_error_has_its_own_status);
  TEST(a_missing_key_and_an_unknown_provider_are_named);
  TEST(a_budget_ends_a_run);
  TEST(a_cassette_is_recorded_and_given_back);
  TEST(the_environment_asks_for_a_cassette_of_models_and_tools);
  TEST(models_are_listed);
  return tests_end();
}
