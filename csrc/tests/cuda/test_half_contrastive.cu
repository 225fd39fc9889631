// The contrastive step of 16-bit views against plain double loops, in blocks and streamed: several
// blocks, whose products are kept, small batches, pieces of eight numbers and of one,
// individual temperatures, what is not finite.
#include "tests/cuda/contrastive_reference.h"

using namespace xrisk;
using namespace xrisk::test;

int main() {
  StepCase half;
  half.type = StepCase::kFloat16;
  half.batch = 140;  // 280 anchors in blocks of 128
  check_step(half);
  half.bimodal = half.individual = true;
  half.width = 8;  // whole pieces
  check_step(half);
  for (const StepCase::Type type : {StepCase::kBfloat16, StepCase::kFloat16}) {
    for (const bool streamed : {false, true}) {
      half = StepCase{};
      half.type = type;
      half.streamed = streamed;
      half.batch = streamed ? 40 : 11;  // two tiles, or one block
      check_step(half);
      half.relative = half.per_view = true;
      half.normalize = false;
      check_step(half);
      half.bimodal = true;
      half.individual = streamed;
      half.width = 8;
      check_step(half);
      half.poison = NAN;
      half.batch = 11;
      check_step(half);
      half.normalize = true;
      half.bimodal = half.individual = false;
      half.poison = INFINITY;
      check_step(half);
    }
  }
  for (const StepCase::Type type : {StepCase::kBfloat16, StepCase::kFloat16}) {
    StepCase small;
    small.type = type;
    small.small = true;
    small.few_entries = 512;
    small.batch = 75;  // a warp with two tiles, the last one with six others
    small.width = 40;
    check_step(small);
    small.bimodal = true;
    small.batch = 11;
    small.width = type == StepCase::kBfloat16 ? 72 : 8;
    check_step(small);
    small.normalize = false;
    small.individual = true;
    check_step(small);
    small.bimodal = false;
    small.poison = NAN;
    check_step(small);
  }
  return report();
}
