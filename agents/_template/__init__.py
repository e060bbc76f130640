"""TemplateAgent: says back what it is told."""
