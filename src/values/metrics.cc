#include "ebb/metrics.h"

#include <fmt/format.h>

#include <iterator>

namespace ebb {
namespace {

using internal::kMetricFields;
using internal::kOperationFields;

constexpr std::size_t kQuantileCount = 4;
struct Quantile {
  const char* name;
  const char* json_name;
  std::uint64_t LatencySummary::*ns;
};
constexpr std::array<Quantile, kQuantileCount> kQuantiles = {{
    {"0.5", "p50_ns", &LatencySummary::p50_ns},
    {"0.95", "p95_ns", &LatencySummary::p95_ns},
    {"0.99", "p99_ns", &LatencySummary::p99_ns},
    {"0.999", "p999_ns", &LatencySummary::p999_ns},
}};

// Prometheus demands base units, so durations are in seconds. Nine decimals show each nanosecond.
double Seconds(std::uint64_t ns) { return static_cast<double>(ns) * 1e-9; }

// The two lines that precede the samples of a metric in the text format of Prometheus.
void AddHead(std::string& text, const char* name, const char* type, const char* help) {
  fmt::format_to(std::back_inserter(text), "# HELP ebb_{0} {1}.\n# TYPE ebb_{0} {2}\n", name, help,
                 type);
}

// All samples of one metric must be together, so the kinds are visited once for each metric.
void AddLatencies(const MetricsSnapshot& metrics, std::string& text) {
  const auto to = std::back_inserter(text);
  AddHead(text, "operation_latency_seconds", "summary", "Time from call to return");
  for (std::size_t i = 0; i < kOpKindCount; ++i) {
    const char* const op = NameOf(static_cast<OpKind>(i));
    const LatencySummary& latency = metrics.operations[i].latency;
    if (latency.count == 0) continue;
    for (const Quantile& quantile : kQuantiles) {
      fmt::format_to(to, "ebb_operation_latency_seconds{{op=\"{}\",quantile=\"{}\"}} {:.9f}\n", op,
                     quantile.name, Seconds(latency.*quantile.ns));
    }
    fmt::format_to(to, "ebb_operation_latency_seconds_sum{{op=\"{}\"}} {:.9f}\n", op,
                   Seconds(latency.sum_ns));
    fmt::format_to(to, "ebb_operation_latency_seconds_count{{op=\"{}\"}} {}\n", op, latency.count);
  }
  AddHead(text, "operation_latency_max_seconds", "gauge", "Longest time from call to return");
  for (std::size_t i = 0; i < kOpKindCount; ++i) {
    const LatencySummary& latency = metrics.operations[i].latency;
    if (latency.count == 0) continue;
    fmt::format_to(to, "ebb_operation_latency_max_seconds{{op=\"{}\"}} {:.9f}\n",
                   NameOf(static_cast<OpKind>(i)), Seconds(latency.max_ns));
  }
}

}  // namespace

const char* NameOf(OpKind kind) {
  switch (kind) {
    case OpKind::kRead:
      return "read";
    case OpKind::kUpsert:
      return "upsert";
    case OpKind::kRmw:
      return "rmw";
    case OpKind::kDelete:
      return "delete";
    case OpKind::kInsert:
      return "insert";
    case OpKind::kCompareExchange:
      return "compare_exchange";
    case OpKind::kScan:
      return "scan";
  }
  return "";
}

// Checkpoints count too: they are written because of the user's updates.
double MetricsSnapshot::write_amplification() const {
  if (user_written_bytes == 0) return 0.0;
  return static_cast<double>(log_written_bytes + checkpoint_written_bytes) /
         static_cast<double>(user_written_bytes);
}

// Names are constants of ebb without special characters, so nothing needs to be escaped.
std::string ToJson(const MetricsSnapshot& metrics) {
  std::string text = fmt::format("{{\"seconds\":{:.3f},\"operations\":{{", metrics.seconds);
  const auto to = std::back_inserter(text);
  for (std::size_t i = 0; i < kOpKindCount; ++i) {
    const OperationMetrics& operation = metrics.operations[i];
    fmt::format_to(to, "{}\"{}\":{{", i == 0 ? "" : ",", NameOf(static_cast<OpKind>(i)));
    for (const auto& field : kOperationFields) {
      fmt::format_to(to, "\"{}\":{},", field.name, operation.*field.value);
    }
    const LatencySummary& latency = operation.latency;
    fmt::format_to(to, "\"latency\":{{\"count\":{},\"sum_ns\":{}", latency.count, latency.sum_ns);
    for (const Quantile& quantile : kQuantiles) {
      fmt::format_to(to, ",\"{}\":{}", quantile.json_name, latency.*quantile.ns);
    }
    fmt::format_to(to, ",\"max_ns\":{}}}}}", latency.max_ns);
  }
  text += '}';
  for (const auto& field : kMetricFields) {
    fmt::format_to(to, ",\"{}\":{}", field.name, metrics.*field.value);
  }
  fmt::format_to(to, ",\"write_amplification\":{:.6f}}}", metrics.write_amplification());
  return text;
}

std::string ToPrometheus(const MetricsSnapshot& metrics) {
  std::string text;
  const auto to = std::back_inserter(text);
  // Counters end in _total, by convention. ResetMetrics makes them smaller, which Prometheus takes
  // for a restart of the program.
  for (const auto& field : kOperationFields) {
    const std::string name = fmt::format("{}_total", field.name);
    AddHead(text, name.c_str(), "counter", field.help);
    for (std::size_t i = 0; i < kOpKindCount; ++i) {
      fmt::format_to(to, "ebb_{}{{op=\"{}\"}} {}\n", name, NameOf(static_cast<OpKind>(i)),
                     metrics.operations[i].*field.value);
    }
  }
  for (const auto& field : kMetricFields) {
    const std::string name = fmt::format("{}_total", field.name);
    AddHead(text, name.c_str(), "counter", field.help);
    fmt::format_to(to, "ebb_{} {}\n", name, metrics.*field.value);
  }
  AddHead(text, "write_amplification", "gauge",
          "Bytes written to the device for each byte of updates");
  fmt::format_to(to, "ebb_write_amplification {:.6f}\n", metrics.write_amplification());
  AddHead(text, "metrics_age_seconds", "gauge", "Time since counting began");
  fmt::format_to(to, "ebb_metrics_age_seconds {:.3f}\n", metrics.seconds);
  // Without Options::measure_latency there is no latency, which is not the same as one of 0.
  bool timed = false;
  for (const OperationMetrics& operation : metrics.operations) {
    timed = timed || operation.latency.count != 0;
  }
  if (timed) AddLatencies(metrics, text);
  return text;
}

}  // namespace ebb
