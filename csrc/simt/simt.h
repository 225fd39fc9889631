// Runs CUDA kernels on the host: one fiber per CUDA thread, one block at a time, one OS thread.
// Included by cuda/platform.h and by nothing else. README.md says what it finds and what it cannot.
#pragma once

#include "simt/atomics.h"
#include "simt/intrinsics.h"
#include "simt/launch.h"
#include "simt/runtime_api.h"
#include "simt/schedule.h"
#include "simt/shared_memory.h"
#include "simt/vocabulary.h"
