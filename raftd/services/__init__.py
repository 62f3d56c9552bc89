"""What a node serves: etcd's API, the session stream, the leader table. Each service decodes, asks the
node, answers.
"""
