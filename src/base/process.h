// This process among others.
#pragma once

namespace conclave {

// Seconds since the process was started, to a hundredth: what was needed to load it counts.
double seconds_since_launch();

}  // namespace conclave
