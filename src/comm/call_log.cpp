#include "comm/call_log.h"

#include <c10/util/Exception.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/text.h"

namespace conclave::comm {
namespace {

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

const GroupState* find(const RankState& state, const GroupState& like) {
  for (const GroupState& g : state.groups)
    if (g.name == like.name && g.ranks == like.ranks) return &g;
  return nullptr;
}

std::string who(const RankState& s) {
  std::string text = "rank " + std::to_string(s.rank);
  if (!s.host.empty())
    text += " (" + s.host + ", pid " + std::to_string(static_cast<long long>(s.pid)) + ")";
  return text;
}

std::string name_of_call(const GroupState& g) { return "`" + g.name + " " + g.call + "`"; }

class Search {
 public:
  Search(const std::vector<RankState>& before, const std::vector<RankState>& now)
      : before_(before), now_(now) {}

  // "rank 0 waits in `…` for rank 2; rank 2 …", following those who wait themselves.
  std::string waits(int rank) {
    told_.insert(rank);
    const RankState& state = now_[static_cast<size_t>(rank)];
    const GroupState& g = state.groups[static_cast<size_t>(state.last)];
    std::vector<int> missing;
    for (int other : g.ranks)
      if (other != rank && !has_come(other, g)) missing.push_back(other);
    std::string text = who(state) + " waits in " + name_of_call(g);
    if (missing.empty())
      return text + ", and so do all others of the group: is the network between them down?";
    std::vector<std::string> names;
    for (size_t i = 0; i < std::min<size_t>(missing.size(), 8); ++i)
      names.push_back(std::to_string(missing[i]));
    if (missing.size() > 8) names.push_back(format("… (%zu in all)", missing.size()));
    text += (missing.size() == 1 ? " for rank " : " for ranks ") + join(names, ", ");
    for (size_t i = 0; i < std::min<size_t>(missing.size(), 4); ++i)
      if (!told_.count(missing[i])) text += "; " + tells(missing[i]);
    return text;
  }

 private:
  bool is_alive(int rank) const {
    const auto r = static_cast<size_t>(rank);
    return now_[r].beat != before_[r].beat;
  }
  bool has_come(int rank, const GroupState& to) const {
    const RankState& state = now_[static_cast<size_t>(rank)];
    const GroupState* g = find(state, to);
    return is_alive(rank) && state.left.empty() && g && g->begun >= to.sequence;
  }
  std::string tells(int rank) {
    const RankState& state = now_[static_cast<size_t>(rank)];
    const GroupState* g = state.last < 0 ? nullptr : &state.groups[static_cast<size_t>(state.last)];
    const std::string last = g ? "its last call was " + name_of_call(*g) : "it made no call yet";
    told_.insert(rank);
    if (state.host.empty()) return who(state) + " was never heard of";
    if (!state.left.empty()) return who(state) + " has left: " + state.left;
    if (!is_alive(rank))
      return who(state) + " does not answer any more, so it is dead or stopped; " + last;
    if (g && g->busy) return waits(rank);
    if (!g) return who(state) + " runs, but has not come: " + last;
    return who(state) + " runs, but has not come: " + last +
           format(", which ended %.0f s ago", g->seconds);
  }

  const std::vector<RankState>& before_;
  const std::vector<RankState>& now_;
  std::set<int> told_;
};

}  // namespace

std::string to_text(const RankState& s) {
  nlohmann::json groups = nlohmann::json::array();
  for (const GroupState& g : s.groups)
    groups.push_back({g.name, g.ranks, g.begun, g.sequence, g.call, g.busy, g.seconds});
  return nlohmann::json{{"rank", s.rank}, {"host", s.host}, {"pid", s.pid},    {"beat", s.beat},
                        {"left", s.left}, {"last", s.last}, {"groups", groups}}
      .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

RankState rank_state(const std::string& text) try {
  const auto j = nlohmann::json::parse(text);
  RankState s{.rank = j.at("rank"),
              .host = j.at("host"),
              .pid = j.at("pid"),
              .beat = j.at("beat"),
              .left = j.at("left"),
              .last = j.at("last")};
  for (const auto& g : j.at("groups"))
    s.groups.push_back({.name = g.at(0),
                        .ranks = g.at(1).get<std::vector<int>>(),
                        .begun = g.at(2),
                        .sequence = g.at(3),
                        .call = g.at(4),
                        .busy = g.at(5),
                        .seconds = g.at(6)});
  if (s.last >= static_cast<int>(s.groups.size()))
    throw RunError("a rank's state names group " + std::to_string(s.last) + " of " +
                   std::to_string(s.groups.size()));
  return s;
} catch (const nlohmann::json::exception& e) {
  throw RunError(std::string("a rank's state in the store is damaged: ") + e.what());
}

int CallLog::add_group(std::string name, std::vector<int> ranks, bool aside) {
  const std::lock_guard lock(mutex_);
  groups_.push_back({.name = std::move(name), .ranks = std::move(ranks), .aside = aside});
  return static_cast<int>(groups_.size()) - 1;
}

int64_t CallLog::begin(int group, Call& call) {
  const std::lock_guard lock(mutex_);
  Group& g = groups_.at(static_cast<size_t>(group));
  call.sequence = ++g.begun;
  const Entry entry{.group = group, .call = call, .begun = seconds_now()};
  g.last = call.text();
  g.under_way.push_back(entry);
  const size_t at = count_++ % kKept;
  if (ring_.size() < kKept)
    ring_.push_back(entry);
  else
    ring_[at] = entry;
  if (!g.aside) last_ = group;
  return g.begun;
}

void CallLog::end(int group, int64_t sequence) { end_where(group, sequence, sequence); }

void CallLog::end_through(int group, int64_t sequence) { end_where(group, 0, sequence); }

void CallLog::end_where(int group, int64_t first, int64_t last) {
  const std::lock_guard lock(mutex_);
  Group& g = groups_.at(static_cast<size_t>(group));
  const auto ends = [&](const Entry& e) {
    return e.ended < 0 && first <= e.call.sequence && e.call.sequence <= last;
  };
  if (std::erase_if(g.under_way, ends) == 0) return;
  g.ended = seconds_now();
  for (Entry& e : ring_)
    if (e.group == group && ends(e)) e.ended = g.ended;
}

std::string CallLog::current(int group) const {
  const std::lock_guard lock(mutex_);
  const Group& g = groups_.at(static_cast<size_t>(group));
  return g.name + " " + (g.under_way.empty() ? g.last : g.under_way.front().call.text());
}

std::vector<std::string> CallLog::lines() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> lines;
  const double now = seconds_now();
  for (size_t i = count_ - ring_.size(); i < count_; ++i) {
    const Entry& e = ring_[i % kKept];
    const std::string what = groups_[static_cast<size_t>(e.group)].name + " " + e.call.text();
    lines.push_back(e.ended < 0
                        ? format("%9.3f s ago, not ended     %s", now - e.begun, what.c_str())
                        : format("%9.3f s ago, %9.3f ms  %s", now - e.begun,
                                 1e3 * (e.ended - e.begun), what.c_str()));
  }
  return lines;
}

void CallLog::fill(RankState& state) const {
  const std::lock_guard lock(mutex_);
  const double now = seconds_now();
  state.groups.clear();
  state.last = last_;
  double longest = 0;
  for (const Group& g : groups_) {
    GroupState s{.name = g.name,
                 .ranks = g.ranks,
                 .begun = g.begun,
                 .sequence = g.begun,
                 .call = g.last,
                 .busy = !g.under_way.empty(),
                 .seconds = now - g.ended};
    if (s.busy) {
      const Entry& oldest = g.under_way.front();
      s.sequence = oldest.call.sequence;
      s.call = oldest.call.text();
      s.seconds = now - oldest.begun;
      if (!g.aside && s.seconds > longest) {
        longest = s.seconds;
        state.last = static_cast<int>(state.groups.size());
      }
    }
    state.groups.push_back(std::move(s));
  }
}

std::string who_waits_for_whom(int me, const std::vector<RankState>& before,
                               const std::vector<RankState>& now) {
  const auto r = static_cast<size_t>(me);
  TORCH_CHECK(r < now.size() && before.size() == now.size() && now[r].last >= 0,
              "who_waits_for_whom: expected rank ", me, " to be in a call");
  return Search(before, now).waits(me);
}

}  // namespace conclave::comm
