"""Looking at a pair of models before any training: what can be mapped, what it costs, what to change.

The cheap half (`audit_mapping`) needs the two tokenizers and their templates only and imports no torch; the
full half is `dragoman.audit.pair`.
"""

from __future__ import annotations

from dragoman.audit.facts import MappingAudit
from dragoman.audit.gate import is_gated, require_safe
from dragoman.audit.mapping import audit_mapping
from dragoman.audit.result import Audit, Problem, Severity
from dragoman.audit.verdict import mapping_problems, verdict

__all__ = [
    "Audit",
    "MappingAudit",
    "Problem",
    "Severity",
    "audit_mapping",
    "is_gated",
    "mapping_problems",
    "require_safe",
    "verdict",
]
