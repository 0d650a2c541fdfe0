class KnowledgeGraphStudy:
    pass
