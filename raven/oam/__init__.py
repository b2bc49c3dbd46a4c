"""Operations and maintenance requests without I/O: HTTP heads, targets, policy."""
