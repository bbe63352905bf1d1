"""Conformance: is an SAE whole and sane, is a format a format? One function a check, which third parties may run too.

```python
from saebench.check import check_format, check_sae

report = check_sae("my-saes/layer-3", acts=acts)
assert report.ok, report
```
"""

from saebench.check import formats, files, weights, arithmetic, real  # noqa: F401, I001  the order of the report
from saebench.check.base import CHECKS, Report, Result
from saebench.check.suite import check_format, check_sae

__all__ = ["CHECKS", "Report", "Result", "check_format", "check_sae"]
