"""What the leading gateway keeps true in the cluster: sites, their exposure, and names that lead to us."""
