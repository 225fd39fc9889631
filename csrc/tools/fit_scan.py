"""Writes csrc/core/scan_fit.h: polynomials in q = exp(-|z|) for the exponential scans.

    python csrc/tools/fit_scan.py > csrc/core/scan_fit.h

Each is the interpolant of a smooth function at the Chebyshev points of [0, 1], in powers of q. The
change to powers multiplies rounding errors by 5.8^K, so it is done in 100 digits. Needs mpmath.
"""

from mpmath import chop, cos, log1p, matrix, mp, mpf, pi, polyval

mp.dps = 100

FUNCTIONS = {
    "kSigma": lambda q: 1 / (1 + q),  # sigma(-|z|) = q / (1 + q)
    "kSoftplus": lambda q: log1p(q) / q,  # log(1 + exp(-|z|)) = log(1 + q)
    "kSigmaSlope": lambda q: 1 / (1 + q) ** 2,  # sigma'(z) = q / (1 + q)^2
}


def fit(function, terms: int) -> list[mpf]:
    """Coefficients c_1 .. c_K of q f(q) = sum_k c_k q^k."""
    nodes = [(1 + cos(mpf(2 * a + 1) * pi / (2 * terms))) / 2 for a in range(terms)]
    powers = matrix(terms, terms)
    for a, node in enumerate(nodes):
        for k in range(terms):
            powers[a, k] = node**k
    solution = mp.lu_solve(powers, matrix([function(q) for q in nodes]))
    return [chop(c) for c in solution]


def largest_error(function, coefficients: list[mpf]) -> mpf:
    """Of q f(q) on [0, 1], relative to q."""
    return max(
        abs(polyval(coefficients[::-1], mpf(k) / 500) - function(mpf(k) / 500))
        for k in range(1, 501)
    )


def main() -> None:
    print("// Written by csrc/tools/fit_scan.py. sum_k c_k q^k, k = 1 .. K, for q = exp(-|z|).")
    print("// Of each translation unit its own: no SIMD variant may export what another links to.")
    print("#pragma once\n\nnamespace xrisk {\nnamespace {\n")
    print("template <int kTerms>\nstruct ScanFit;")
    for terms in (16, 24):
        print(f"\ntemplate <>\nstruct ScanFit<{terms}> {{")
        for name, function in FUNCTIONS.items():
            coefficients = fit(function, terms)
            error = mp.nstr(largest_error(function, coefficients), 2)
            print(f"  // error <= {error} q")
            print(f"  static constexpr double {name}[{terms}] = {{")
            for c in coefficients:
                print(f"      {mp.nstr(c, 18)},")
            print("  };")
        print("};")
    print("\n}  // namespace\n}  // namespace xrisk")


if __name__ == "__main__":
    main()
