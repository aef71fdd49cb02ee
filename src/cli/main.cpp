// The program: verbs to recipes, errors to one line and an exit status. 0 the end was reached · 75
// stopped by a signal after saving · 2 usage or config · 1 run time.
#include <c10/util/Exception.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <new>

#include "base/abandon.h"
#include "base/error.h"
#include "base/log.h"
#include "base/report.h"
#include "cli/verbs.h"

namespace {

using namespace conclave;

// A broken contract inside the program: its first line without the stack, which is of use to nobody
// at a terminal.
std::string first_line(const c10::Error& error) {
  std::string text = error.what_without_backtrace();
  return text.substr(0, text.find('\n'));
}

int run(int argc, char** argv) {
  CLI::App app{"Conclave trains mixture-of-experts language models."};
  app.require_subcommand(0, 1);
  app.set_version_flag("--version", "conclave " CONCLAVE_VERSION);
  int status = 0;
  cli::add_verbs(app, status);
  if (argc > 1 && argv[1][0] != '-') cli::check_verb(app, argv[1]);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    std::fprintf(stderr, "conclave: %s; conclave help lists verbs and flags\n", error.what());
    return 2;
  }
  if (app.get_subcommands().empty()) {
    std::puts(cli::overview().c_str());
    return 2;
  }
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  auto fail = [](const std::string& message, int status) {
    report(Report::failed, message);  // launch keeps the first that it is told
    const std::string rank = log_rank() < 0 ? "" : "rank " + std::to_string(log_rank()) + ": ";
    std::fprintf(stderr, "conclave: %s%s\n", rank.c_str(), message.c_str());
    return status;
  };
  set_abandon([&](const std::string& message) { ::_exit(fail(message, 1)); });
  try {
    return run(argc, argv);
  } catch (const ConfigError& error) {
    return fail(error.what(), 2);
  } catch (const RunError& error) {
    return fail(error.what(), 1);
  } catch (const c10::Error& error) {
    return fail("internal error: " + first_line(error), 1);
  } catch (const std::bad_alloc&) {
    return fail(
        "out of memory; make batch.micro_rows or the model smaller, or recompute more "
        "(memory.recompute)",
        1);
  } catch (const std::exception& error) {
    return fail(std::string("internal error: ") + error.what(), 1);
  }
}
